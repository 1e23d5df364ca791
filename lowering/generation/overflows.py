"""What of a decoder's own numbers float16 has no room for, seen while its program is checked."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import fx
from torch.utils import _pytree as pytree

from frontend import fp16
from frontend.source import Source, source_of
from lowering.precision.safe import PrecisionWarning

# Numbers beyond are no results: masks add the ends of float32 to scores, or about -1e9, and a
# conversion writes smaller ones in their place.
_NO_RESULT, _MASKED = 1e30, -(2.0**29)
_TOLD = 3


@dataclass(frozen=True)
class Overflow:
    """A value that float16 has no room for.

    Attributes:
        function: of the package.
        value: its name in the function's program.
        largest: the largest magnitude seen, above 65,504.
        source: where it comes from.
    """

    function: str
    value: str
    largest: float
    source: Source

    def __str__(self) -> str:
        return f"{self.value} of {self.function} reaches {self.largest:.3g} ({self.source})"


class Watcher(fx.Interpreter):
    """Runs a program and notes which of its values float16 has no room for.

    Args:
        module: of a captured program.
        function: its name in the package.
        found: takes an ``Overflow`` for each value, the largest of all runs.
        stored: takes the names of weights, which are looked at in the first run alone.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        function: str,
        found: dict[str, Overflow],
        stored: set[str],
    ) -> None:
        super().__init__(module)
        self._function, self._found, self._stored = function, found, stored
        self._inputs = [str(n.target) for n in module.graph.nodes if n.op == "placeholder"]

    def called(self, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """What ``module(**inputs)`` returns, flat."""
        given = (inputs[name] for name in self._inputs)
        values = self.run(*given, enable_io_processing=False)
        leaves: list[torch.Tensor] = pytree.tree_leaves(values)
        return leaves

    def run_node(self, n: fx.Node) -> object:
        """As torch's, with a look at the result."""
        result = super().run_node(n)
        if n.name in self._stored:
            return result
        if n.op == "get_attr":
            self._stored.add(n.name)
        if isinstance(result, torch.Tensor) and not _fits(result):
            sizes = result.abs()
            counts = (result > _MASKED) & (sizes < _NO_RESULT)
            largest = float(sizes.where(counts, 0).max())
            known = self._found.get(n.name)
            if largest > max(fp16.MAX, known.largest if known else 0.0):
                self._found[n.name] = Overflow(self._function, n.name, largest, source_of(n))
        return result


def _fits(value: torch.Tensor) -> bool:
    """Whether float16 has room for all of it, found without a copy; it may be a weight's view."""
    if not value.is_floating_point() or not value.numel():
        return True
    least, largest = torch.aminmax(value)
    return float(least) >= -fp16.MAX and float(largest) <= fp16.MAX


def warn(overflows: Iterable[Overflow]) -> None:
    """Warns of ``overflows``, one for each line of the model."""
    by_line: dict[tuple[str, str], Overflow] = {}
    for found in overflows:
        key = (found.source.module, found.source.line)
        if key not in by_line or found.largest > by_line[key].largest:
            by_line[key] = found
    if not by_line:
        return
    told = "; ".join(str(found) for found in list(by_line.values())[:_TOLD])
    more = f"; and {len(by_line) - _TOLD} more places" if len(by_line) > _TOLD else ""
    warnings.warn(
        f"float16 ends at {fp16.MAX:.0f}, and the decoder's own numbers do not: {told}{more}. "
        "Export with precision='safe' (--precision safe), which keeps such operators in float32, "
        "or 'fp32'",
        PrecisionWarning,
        stacklevel=3,
    )
