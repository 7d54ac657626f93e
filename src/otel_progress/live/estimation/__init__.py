"""Estimates of remaining time for running levels."""
