"""Two ways of one model to Core AI: what each makes of it, and its error in Apple's runtime."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

import lowering
import passes
from frontend.errors import AnePassesError
from lowering.core_ai.runtime import TIMEOUT_SECONDS, Arrays, run_asset
from lowering.verification.parity import rel_l2

if TYPE_CHECKING:
    from coreai.authoring import AIProgram

# Relative L2 error below which a program computes what the module computes.
RIGHT = {"float32": 1e-3, "float16": 5e-2}
# Core AI has no wider numbers: what is fed in their place.
_NARROWED = {torch.int64: torch.int32, torch.float64: torch.float32}
# Seconds for a run. Plain float16 products take some thousand times an ordinary time (*measured*).
_RUN_SECONDS = {"float32": TIMEOUT_SECONDS, "float16": 120.0}
_LONGEST_REASON = 300
# Kinds of verdicts, from good to bad: as the module; another result; one clear error; any other.
RIGHT_KIND, WRONG, REFUSED, BROKEN = "right", "wrong", "refused", "broken"


@dataclass(frozen=True)
class Verdict:
    """What became of a model on one way.

    Attributes:
        kind: one of the four above.
        error: the largest relative L2 error of an output, where it ran.
        ops: operators of the program, constants aside, where there is one.
        reason: why it is not right.
    """

    kind: str
    error: float | None = None
    ops: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Made:
    """A converted program, and how to run it.

    Attributes:
        ops: operators, constants aside.
        error: runs it and gives the largest relative L2 error.
    """

    ops: int
    error: Callable[[], float]


def verdict(make: Callable[[], Made], precision: str) -> Verdict:
    """Makes and runs a program; whatever is raised becomes the reason."""
    ops = None
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = make()
            ops = made.ops
            error = made.error()
    except AnePassesError as refusal:
        return Verdict(REFUSED, ops=ops, reason=" ".join(str(refusal).split())[:_LONGEST_REASON])
    except Exception as raised:  # torch and coreai-torch raise whatever they do
        lines = str(raised).strip().splitlines()
        reason = f"{type(raised).__name__}: {lines[0] if lines else ''}"[:_LONGEST_REASON]
        return Verdict(BROKEN, ops=ops, reason=reason)
    if error < RIGHT[precision]:
        return Verdict(RIGHT_KIND, error, ops)
    return Verdict(WRONG, error, ops, f"relative L2 {error:.1e}")


def with_passes(
    module: nn.Module,
    example: Mapping[str, Any],
    check: Mapping[str, Any],
    precision: str,
    attention: Literal["split", "native"] = "split",
) -> Made:
    """Rewritten by ``optimize_for_ane`` and converted by ``lowering.convert``."""
    pipeline = passes.default_pipeline(attention=attention)
    optimized = passes.optimize_for_ane(module, kwargs=dict(example), pipeline=pipeline)
    made = lowering.convert(optimized, format="aimodel", precision=precision)

    def error() -> float:
        found = lowering.verify(made, optimized, (), dict(check), locate=False)
        if found.error is not None:
            raise lowering.CoreAIError(found.error)
        return max(output.rel_l2 for output in found.outputs)

    return Made(operators(made.program), error)


def plain(
    module: nn.Module, example: Mapping[str, Any], check: Mapping[str, Any], precision: str
) -> Made:
    """``torch.export``, coreai-torch's own decompositions, its own converter."""
    import coreai_torch

    # A copy: what the module writes to itself is no part of what is exported.
    expected = _tensors(copy.deepcopy(module)(**copy.deepcopy(dict(check))))
    half = precision == "float16"
    if half:
        module = copy.deepcopy(module).half()
        example, check = (pytree.tree_map(_halved, dict(given)) for given in (example, check))
    program = torch.export.export(module, (), dict(example))
    program = program.run_decompositions(coreai_torch.get_decomp_table())
    maker = coreai_torch.TorchConverter(mode=coreai_torch.TorchConverter.Mode.RELEASE)
    with contextlib.redirect_stdout(io.StringIO()):  # where it reports progress
        converted = maker.add_exported_program(program).to_coreai()
    signature = program.graph_signature
    given = zip(map(str, signature.user_inputs), _tensors(dict(check)), strict=True)
    written = set(signature.buffers_to_mutate.values())
    starts = {
        str(spec.arg.name): _narrowed(program.state_dict[str(spec.target)])
        for spec in signature.input_specs
        if spec.kind is InputKind.BUFFER and spec.target in written
    }

    def error() -> float:
        inputs = {name: _narrowed(value) for name, value in given}
        with tempfile.TemporaryDirectory() as folder:
            asset = Path(folder) / "plain.aimodel"
            converted.save_asset(asset)
            found = run_asset(asset, inputs, starts, timeout=_RUN_SECONDS[precision])
        names = [str(name) for name in signature.user_outputs]
        return _largest_error(found, names, expected)

    return Made(operators(converted), error)


def operators(program: AIProgram) -> int:
    """Operators of the main graph, constants and the return aside; a composite is one."""
    graph = program._get_graph("main")
    assert graph is not None
    ops = (op for region in graph.regions for block in region for op in block.operations)
    return sum(op.operation.name not in ("coreai.constant", "coreai.output") for op in ops)


def _largest_error(found: Arrays, names: list[str], expected: list[Tensor]) -> float:
    # A repeated output is dropped without a word.
    if len(found) != len(expected):
        raise RuntimeError(f"{len(found)} outputs instead of {len(expected)}")
    pairs = zip(names, expected, strict=True)
    return max(rel_l2(torch.from_numpy(found[name]), value) for name, value in pairs)


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _halved(value: object) -> object:
    is_float = isinstance(value, Tensor) and value.dtype == torch.float32
    return value.half() if isinstance(value, Tensor) and is_float else value


def _narrowed(value: Tensor) -> np.ndarray:
    return value.detach().to(_NARROWED.get(value.dtype, value.dtype)).numpy()
