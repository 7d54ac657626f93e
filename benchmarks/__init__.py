"""What otel-progress costs, beside tqdm, rich and the bare OpenTelemetry SDK: ``python -m benchmarks`` prints a table."""
