"""Updates of an operation by the processes that its command started."""
