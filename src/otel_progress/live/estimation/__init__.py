"""Estimates of running levels, and the trajectories of past runs that they use."""
