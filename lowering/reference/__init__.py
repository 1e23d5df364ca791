"""MIL reference interpreter: executes finished ML Programs on torch CPU kernels."""
