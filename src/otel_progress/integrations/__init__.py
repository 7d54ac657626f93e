"""Other libraries' doings, tied to the level they happen in."""
