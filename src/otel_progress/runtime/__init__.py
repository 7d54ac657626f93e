"""Runtime: components of a running configuration, from the ticker to the shutdown."""
