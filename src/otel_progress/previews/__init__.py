"""Previews of unfinished work: captured, rendered, bounded and stored."""
