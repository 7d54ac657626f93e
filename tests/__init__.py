"""Tests of the project. Folders follow the packages of ``src``; helpers are in ``tests.support``."""
