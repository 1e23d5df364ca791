"""Capture: any PyTorch model as one checked, named, functional ATen program."""

from typing import TYPE_CHECKING

from frontend.lazy import lazily

if TYPE_CHECKING:
    from frontend.capturing import capture as capture
    from frontend.errors import AnePassesError as AnePassesError
    from frontend.errors import CaptureError as CaptureError
    from frontend.errors import InputError as InputError
    from frontend.source import Source as Source
    from frontend.source import source_of as source_of

__all__, __getattr__, __dir__ = lazily(
    __name__,
    {
        "AnePassesError": "frontend.errors",
        "CaptureError": "frontend.errors",
        "InputError": "frontend.errors",
        "Source": "frontend.source",
        "capture": "frontend.capturing",
        "source_of": "frontend.source",
    },
)
