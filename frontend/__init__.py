"""Capture: any PyTorch model as one checked, named, functional ATen program."""

from frontend.capture import capture
from frontend.errors import AnePassesError, CaptureError
from frontend.source import Source, source_of

__all__ = ["AnePassesError", "CaptureError", "Source", "capture", "source_of"]
