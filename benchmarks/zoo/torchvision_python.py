"""torchvision's Python part beside a torch that its compiled part does not fit.

There is no CPU build of torchvision for this torch, and timm and ultralytics import it. Its Python
part works alone once the fake kernels of its missing operators are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

# Where `make zoo` puts it: on the path of other programs it would break transformers, which
# imports torchvision wherever there is one.
DIRECTORY = Path(sys.prefix) / "torchvision-python"


@contextmanager
def importable_torchvision() -> Iterator[None]:
    """``import torchvision`` works inside, and stays imported."""
    register = torch.library.register_fake

    def skip(name: Any, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        if isinstance(name, str) and name.startswith("torchvision::"):
            return lambda function: function
        return register(name, *args, **kwargs)

    if str(DIRECTORY) not in sys.path:
        sys.path.append(str(DIRECTORY))
    torch.library.register_fake = skip
    try:
        yield
    finally:
        torch.library.register_fake = register
