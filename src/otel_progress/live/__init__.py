"""In-memory store of the levels of this process."""
