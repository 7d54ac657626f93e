"""Tests. Folders mirror the packages of ``src``. Helpers are in tests.support."""
