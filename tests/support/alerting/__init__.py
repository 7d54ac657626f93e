"""Rules, configuration and servers for the tests of alerts."""
