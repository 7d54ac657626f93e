"""What otel-progress costs, measured beside tqdm, rich and the bare OpenTelemetry SDK: ``python -m benchmarks`` prints a table."""
