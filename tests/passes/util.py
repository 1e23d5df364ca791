"""What every pass's test does: capture, run, count, compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from frontend.capturing import capture
from frontend.program import runnable
from passes.base import Pass
from passes.pipeline import PassReport, run

RTOL, ATOL = 1e-5, 1e-6


class Function(nn.Module):
    """A module from a function of one tensor and constants."""

    def __init__(self, function: Callable[..., Any], **constants: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, tensor in constants.items():
            self.register_buffer(name, tensor)

    def forward(self, x):
        return self.function(self, x)


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers that are the same in every run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run_pass(
    model: nn.Module | ExportedProgram,
    inputs,
    *passes: Pass,
    kwargs: dict[str, Any] | None = None,
    dynamic_shapes=None,
) -> tuple[ExportedProgram, ExportedProgram, tuple[PassReport, ...]]:
    """The captured program, the program after ``passes``, and their reports.

    Also checks that the passes left the captured program as it was.
    """
    before = capture(model, inputs, kwargs=kwargs, dynamic_shapes=dynamic_shapes)
    text, state = str(before.graph), dict(before.state_dict)
    after, reports = run(before, passes)
    assert str(before.graph) == text, "the pass edited the program it was given"
    assert state.keys() == before.state_dict.keys()
    assert all(state[name] is before.state_dict[name] for name in state)
    return before, after, reports


def count(program: ExportedProgram, *ops) -> int:
    """Calls of ``ops``."""
    return sum(n.op == "call_function" and n.target in ops for n in program.graph.nodes)


def outputs(model, inputs, kwargs: dict[str, Any] | None = None) -> list[torch.Tensor]:
    """Flat tensor outputs of a module or a program."""
    call = runnable(model) if isinstance(model, ExportedProgram) else model
    args = inputs if isinstance(inputs, tuple | list) else (inputs,)
    with torch.no_grad():
        result = call(*args, **(kwargs or {}))
    leaves = torch.utils._pytree.tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def assert_same(
    one,
    other,
    inputs,
    *,
    kwargs: dict[str, Any] | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
) -> None:
    """Two modules or programs give the same outputs."""
    expected, found = outputs(one, inputs, kwargs), outputs(other, inputs, kwargs)
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=rtol, atol=atol)


def assert_differs_when_perturbed(program: ExportedProgram, original, inputs) -> None:
    """The comparison notices changed weights: it can fail."""
    kept = dict(program.state_dict)
    for name, tensor in kept.items():
        if tensor.is_floating_point():
            # Not the same everywhere: a norm or a softmax would not notice.
            changed = tensor.detach() + 1e-2 * seeded(*tensor.shape)
            is_parameter = isinstance(tensor, nn.Parameter)
            program.state_dict[name] = nn.Parameter(changed) if is_parameter else changed
    try:
        pairs: Sequence[tuple[torch.Tensor, torch.Tensor]] = list(
            zip(outputs(original, inputs), outputs(program, inputs), strict=True)
        )
        assert any(not torch.allclose(a, b, rtol=RTOL, atol=ATOL) for a, b in pairs)
    finally:
        program.state_dict.update(kept)


def reasons(report: PassReport) -> list[str]:
    """Why places were left alone."""
    return [declined.reason for declined in report.declined]
