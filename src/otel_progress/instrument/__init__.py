"""Instrumentation API: helpers, level handles, iteration, decorators and spans.

It needs only opentelemetry-api.
"""
