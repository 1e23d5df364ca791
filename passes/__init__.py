"""Rewrites that shape a captured program for the Apple Neural Engine."""
