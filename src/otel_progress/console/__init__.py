"""Terminal displays: a live tree on a terminal, plain lines elsewhere."""
