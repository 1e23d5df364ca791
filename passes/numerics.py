"""Numeric comparison of a program with what it was before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from frontend.program import runnable
from passes.errors import InvariantError

# The contract of every pass, unless its docstring states another bound.
RTOL, ATOL = 1e-5, 1e-6
# Sums in another order differ by a few roundings of their largest terms, not of their result;
# where results are small against what was summed, this share of the output's range is allowed.
# 32 roundings; small models of 14 families differ by 4 at most (measured, tests/passes/zoo.py).
_SHARE_OF_RANGE = 32 * torch.finfo(torch.float32).eps


class NumericCheck:
    """Holds the outputs of a captured program and compares rewritten ones with them."""

    def __init__(self, program: ExportedProgram) -> None:
        args, kwargs = program.example_inputs or ((), {})
        self._calls = [(args, kwargs), _random_like(args, kwargs)]
        self._expected = [_outputs(program, *call) for call in self._calls]
        self._names = [n for n in program.graph_signature.user_outputs if isinstance(n, str)]

    def __call__(self, name: str, program: ExportedProgram) -> None:
        """Compares ``program`` with the captured one.

        Raises:
            InvariantError: an output differs by more than the contract allows.
        """
        for call, expected in zip(self._calls, self._expected, strict=True):
            for label, want, have in zip(
                self._names, expected, _outputs(program, *call), strict=False
            ):
                if want.shape != have.shape:
                    continue  # a pass that changes outputs says so; see AssignLayout
                if not close(want, have):
                    worst = float((want.double() - have.double()).abs().max())
                    raise InvariantError(
                        f"pass {name} changed the numbers of output {label}",
                        expected=f"within rtol {RTOL} and atol {ATOL} of the captured program",
                        found=f"a difference of {worst:.3g}",
                        hint="report this model; leave the pass out of the pipeline meanwhile",
                    )


def close(want: torch.Tensor, have: torch.Tensor) -> bool:
    """True if two outputs agree within the contract of the passes."""
    if want.shape != have.shape or want.dtype is not have.dtype:
        return False
    if not want.is_floating_point():
        return torch.equal(want, have)
    finite = want[torch.isfinite(want)]
    span = float(finite.abs().max()) if finite.numel() else 0.0
    tolerance = max(ATOL, _SHARE_OF_RANGE * span)
    # Outputs of half precision are rounded once more, either way.
    relative = max(RTOL, torch.finfo(want.dtype).eps)
    return torch.allclose(want, have, rtol=relative, atol=tolerance, equal_nan=True)


def _outputs(
    program: ExportedProgram, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[torch.Tensor]:
    with torch.no_grad():
        result = runnable(program)(*args, **kwargs)
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _random_like(args: object, kwargs: object) -> tuple[Any, Any]:
    """Other inputs: floats are redrawn; integers may be indices or masks and are kept."""
    generator = torch.Generator().manual_seed(0)

    def redraw(value: torch.Tensor) -> torch.Tensor:
        if not value.is_floating_point():
            return value
        drawn = torch.randn(value.shape, generator=generator)
        return drawn.to(value.dtype)

    return pytree.tree_map_only(torch.Tensor, redraw, (args, kwargs))
