"""ONNX as a diagnostic: the same values in torch, in ONNX Runtime and in the package.

Where ONNX Runtime agrees with torch and the package does not, the fault lies in the package; where
both part from torch at one node, in the program. Nothing is converted from ONNX.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.export import ExportedProgram

from frontend.errors import first_line
from frontend.quiet import quiet_logger
from frontend.source import Source, source_of
from lowering.reference import ModelLike, load
from lowering.support.finite import finite
from lowering.verification import fx_values, package_values
from lowering.verification.image_inputs import with_nearest_images
from lowering.verification.original import Original, VerificationError
from lowering.verification.parity import rel_l2

# Two runs in float32 that sum in other orders are no further apart, through a deep model.
SAME = 1e-4
_NEEDED = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class ThreeWay:
    """One node of the program on all sides.

    Attributes:
        node: its FX name.
        source: module path and line.
        onnx: relative L2 error of ONNX Runtime against torch; ``None`` where it was not asked.
        package: of the package against torch; ``None`` where it does not compute the node.
    """

    node: str
    source: Source
    onnx: float | None
    package: float | None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "node": self.node,
            "module": self.source.module,
            "line": self.source.line,
            "onnx": finite(self.onnx),
            "package": finite(self.package),
        }


def missing_for_onnx() -> list[str]:
    """The packages that the ONNX side needs and that are not installed."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def three_way(
    package: ModelLike | None,
    against: nn.Module | ExportedProgram | Original,
    inputs: object = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    onnx: bool = True,
    precision: str = "fp16",
) -> list[ThreeWay]:
    """The values of every node that the sides share, in program order.

    Args:
        package: an MLModel or the path of a ``.mlpackage``; ``None`` compares ONNX alone.
        against: as for :func:`lowering.verify`.
        inputs: positional inputs.
        kwargs: keyword inputs.
        onnx: run ONNX Runtime as well.
        precision: how the package is computed.

    Raises:
        VerificationError: the ONNX side is asked for and not installed, or cannot have the program.
    """
    model = None if package is None else load(package, precision=precision)
    metadata = {} if model is None else model.metadata
    original = Original.of(against, inputs, kwargs, metadata=metadata)
    found: Mapping[str, Tensor] = {}
    pairs: Mapping[str, str] = {}
    if model is not None:
        original = with_nearest_images(model, original)
        found = package_values.run(model, package_values.feed_of(model, original)).values
        pairs = package_values.matches(model, original.program)
    nodes = [
        node
        for node in original.program.graph.nodes
        if node.op == "call_function"
        and fx_values.is_tensor(node)
        and (model is None or node.name in pairs)
    ]
    expected = _values(original, [node.name for node in nodes])
    runtime = _onnx_values(original, list(expected)) if onnx else {}
    rows = []
    for node in nodes:
        if node.name not in expected:
            continue
        want = expected[node.name]
        value = found.get(pairs.get(node.name, ""))
        rows.append(
            ThreeWay(
                node.name,
                source_of(node),
                rel_l2(runtime[node.name], want) if node.name in runtime else None,
                None if value is None else rel_l2(value, want),
            )
        )
    return rows


def probes_table(rows: Sequence[ThreeWay]) -> Table:
    """The rows for a terminal."""
    table = Table("node", "module", "torch ↔ ONNX", "torch ↔ package")
    for row in rows:
        table.add_row(row.node, row.source.module, *map(_number, (row.onnx, row.package)))
    return table


def _number(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"


class _Probed(nn.Module):
    """A program that returns the values of some of its nodes."""

    def __init__(self, original: Original, names: Sequence[str]) -> None:
        super().__init__()
        self._original, self._names = original, names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        leaves = [next(given) if isinstance(x, Tensor) else x for x in self._original.leaves]
        values: dict[str, Tensor] = {}

        def keep(node: torch.fx.Node, value: object) -> object:
            if node.name in self._names and isinstance(value, Tensor):
                values[node.name] = value
            return value

        fx_values.run(self._original.program, leaves, visit=keep)
        return tuple(values[name] for name in self._names)


def _values(original: Original, names: Sequence[str]) -> dict[str, Tensor]:
    leaves = [leaf for leaf in original.leaves if isinstance(leaf, Tensor)]
    return dict(zip(names, _Probed(original, names)(*leaves), strict=True))


def _onnx_values(original: Original, names: Sequence[str]) -> dict[str, Tensor]:
    lacking = missing_for_onnx()
    if lacking:
        raise VerificationError(
            "the ONNX side needs packages that are not installed",
            found=f"without {', '.join(lacking)}",
            hint='pip install "ane-passes[onnx]"',
        )
    import onnxruntime

    leaves = tuple(leaf for leaf in original.leaves if isinstance(leaf, Tensor))
    try:
        # The exporter logs each operator of torchvision where that is not installed.
        with warnings.catch_warnings(), quiet_logger("torch.onnx"):
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                _Probed(original, names), leaves, dynamo=True, verbose=False, optimize=False
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise VerificationError(
            "torch cannot write the program as ONNX",
            found=first_line(error),
            hint="leave out --onnx, or look at the part of the model that ONNX has",
        ) from error
    assert made is not None
    file = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    feed = {
        entry.name: leaf.detach().numpy()
        for entry, leaf in zip(session.get_inputs(), leaves, strict=True)
    }
    results = session.run(None, feed)
    return {n: torch.from_numpy(np.asarray(r)) for n, r in zip(names, results, strict=True)}
