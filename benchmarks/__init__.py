"""Measurements: each prints a ratio or a count that this repository can reproduce."""
