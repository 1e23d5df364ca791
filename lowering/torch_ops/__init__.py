"""Lowerings of torch operators that coremltools 9.0 lacks or gets wrong."""
