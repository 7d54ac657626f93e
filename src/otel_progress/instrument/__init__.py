"""What callers hold: the helpers, the handle of a level, iteration, decorators, and the span of a level. API of OpenTelemetry only."""
