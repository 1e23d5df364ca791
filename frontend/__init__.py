"""Capture: any PyTorch model as one checked, named, functional ATen program."""
