"""A model and what to call it with, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


@dataclass(frozen=True)
class ModelCall:
    """A model and what to call it with.

    Attributes:
        name: short name, for default file names, headings and results.
        model: a module or an exported program.
        args: positional example inputs; ``None`` means that they are to be inferred.
        kwargs: keyword example inputs.
        dynamic_shapes: as for ``torch.export.export``; ``None`` where every size is fixed.
    """

    name: str
    model: nn.Module | ExportedProgram
    args: Any = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    dynamic_shapes: Any = None
