"""Receivers of progress from programs that send OTLP instead of sharing a journal."""
