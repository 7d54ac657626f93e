"""A running configuration: the ticker, a lane a sink, callbacks, joined tracer providers, and how all of it ends."""
