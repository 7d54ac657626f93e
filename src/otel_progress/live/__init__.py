"""In-memory store of the levels of this process: their tree, counters, buffers, figures and estimates."""
