"""Where NaN, infinity and fp16 overflow first appear while a program runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from frontend import fp16
from frontend.source import Source
from lowering.package.dtypes import FP16
from lowering.reference.program import Op


@dataclass(frozen=True)
class WatchFinding:
    """One value with elements that are no finite numbers, or do not fit fp16.

    Attributes:
        op: name of the op that computed it.
        type: MIL op type.
        value: name of the value.
        problem: ``NaN``, ``fp16 overflow`` (finite, but beyond fp16's largest number) or ``Inf``.
        count: how many elements.
        low: smallest number computed, before rounding, infinities included.
        high: largest number computed.
        origin: whether everything the op read was finite.
        source: where the op comes from.
    """

    op: str
    type: str
    value: str
    problem: str
    count: int
    low: float
    high: float
    origin: bool
    source: Source

    def to_json(self) -> dict[str, Any]:
        """As a flat dictionary."""
        return {**asdict(self), "source": str(self.source)}


@dataclass
class Watch:
    """An observer that collects findings; pass it to ``LoadedModel.run``.

    Args:
        sources: from the name of an op to its origin.
    """

    sources: Callable[[str], Source] = lambda name: Source()
    findings: list[WatchFinding] = field(default_factory=list)
    _tainted: set[str] = field(default_factory=set)

    def inputs(self, values: Mapping[str, Any]) -> None:
        """Notes model inputs that are not finite: what follows from them is no origin."""
        for name, value in values.items():
            if hasattr(value, "__array__") and not _finite(torch.as_tensor(value)):
                self._tainted.add(name)

    def __call__(self, op: Op, results: tuple[Any, ...], computed: tuple[Any, ...]) -> None:
        """Looks at what ``op`` just computed."""
        reads = {name for names in op.inputs.values() for name in names}
        origin = not (reads & self._tainted) and not any(
            not _finite(value) for value in op.constants.values()
        )
        for output, result, raw in zip(op.outputs, results, computed, strict=True):
            if not isinstance(raw, Tensor) or not raw.is_floating_point() or not raw.numel():
                continue
            is_fp16 = output.dtype is FP16
            for problem, count in _problems(raw, result, is_fp16):
                self._tainted.add(output.name)
                numbers = raw[~torch.isnan(raw)]
                self.findings.append(
                    WatchFinding(
                        op=op.name,
                        type=op.type,
                        value=output.name,
                        problem=problem,
                        count=count,
                        low=float(numbers.min()) if numbers.numel() else float("nan"),
                        high=float(numbers.max()) if numbers.numel() else float("nan"),
                        origin=origin,
                        source=self.sources(op.name),
                    )
                )

    @property
    def origins(self) -> list[WatchFinding]:
        """Findings that do not follow from earlier ones, in program order."""
        return [finding for finding in self.findings if finding.origin]


def _problems(raw: Tensor, result: Tensor, is_fp16: bool) -> Iterator[tuple[str, int]]:
    nan = int(torch.isnan(raw).sum())
    infinite = int(torch.isinf(raw).sum())
    if nan:
        yield "NaN", nan
    if infinite:
        yield "Inf", infinite
    if is_fp16:
        # Rounding to nearest: numbers up to half a step above the largest still fit. Unrounded
        # (precision fp32) the magnitude itself is compared.
        beyond = torch.isinf(result) if result is not raw else raw.abs() > fp16.MAX
        overflow = int((beyond & torch.isfinite(raw)).sum())
        if overflow:
            yield "fp16 overflow", overflow


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")
    if isinstance(value, Tensor) and value.is_floating_point():
        return bool(torch.isfinite(value).all())
    if isinstance(value, list):
        return all(_finite(item) for item in value)
    return True
