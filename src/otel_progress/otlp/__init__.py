"""OTLP export of spans, events, logs and metrics."""
