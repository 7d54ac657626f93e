"""Previews: what work looks like half done, made small, kept within bounds, and stored where people can look at it."""
