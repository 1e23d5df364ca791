"""Packed projections: which are taken apart, and that nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import passes
from passes.patterns.nodes import aten

B, S, H, D = 2, 6, 4, 8
C = H * D
PIPELINE = (
    passes.FoldConstants(),
    passes.SimplifyViews(),
    passes.UnpackProjections(),
    passes.FoldConstants(),
)


class Packed(nn.Module):
    """A linear of ``channels`` whose result a function takes apart."""

    def __init__(self, take: Callable[[Tensor], list[Tensor]], channels: int = 3 * C) -> None:
        super().__init__()
        self.linear = nn.Linear(C, channels)
        self.take = take

    def forward(self, x: Tensor) -> list[Tensor]:
        return [part.tanh() for part in self.take(self.linear(x))]


def stacked(y: Tensor) -> list[Tensor]:
    """As ``nn.MultiheadAttention`` writes it."""
    y = y.unflatten(-1, (3, C)).unsqueeze(0).transpose(0, -2).squeeze(-2).contiguous()
    return [y[i].view(S, B * H, D).transpose(0, 1) for i in range(3)]


def windows(y: Tensor) -> list[Tensor]:
    """As SAM writes it: batch and heads are joined before the cut."""
    return list(y.reshape(B, S, 3, H, D).permute(2, 0, 3, 1, 4).reshape(3, B * H, S, D).unbind(0))


def grouped(y: Tensor) -> list[Tensor]:
    """As Phi-3 does: eight heads of queries, two of keys and of values."""
    q, k, v = y[..., :32], y[..., 32:40], y[..., 40:]
    return [t.view(B, S, -1, 4).transpose(1, 2) for t in (q, k, v)]


def by_group(y: Tensor) -> list[Tensor]:
    """As Falcon does: the queries of each group, then its key and its value."""
    y = y.view(B, S, 2, 3 + 2, -1)
    return [y[..., :-2, :], y[..., -2, :], y[..., -1, :]]


SPELLINGS = {
    "chunk": (lambda y: list(y.chunk(3, -1)), 3 * C),
    "split": (lambda y: list(y.split([C, 2 * C], -1)), 3 * C),
    "slices": (lambda y: [y[..., :C], y[..., C : 2 * C], y[..., 2 * C :]], 3 * C),
    "two of three": (lambda y: [y[..., :C], y[..., 2 * C :]], 3 * C),
    "timm": (lambda y: list(y.reshape(B, S, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)), 3 * C),
    "select": (lambda y: [y.view(B, S, 3, C)[:, :, i] for i in range(3)], 3 * C),
    "neox": (lambda y: list(y.view(B, S, H, 3 * D).transpose(1, 2).chunk(3, -1)), 3 * C),
    "bloom": (lambda y: [y.view(B, S, H, 3, D)[..., i, :] for i in range(3)], 3 * C),
    "turned heads": (lambda y: list(y.view(B, S, H, 3, D).transpose(2, 4).unbind(3)), 3 * C),
    "keys and values": (lambda y: list(y.view(B, S, 2, H, D).unbind(2)), 2 * C),
    "grouped": (grouped, 48),
    "by group": (by_group, 2 * 5 * 8),
    "windows": (windows, 3 * C),
    "twice": (lambda y: [*y[..., : 2 * C].chunk(2, -1), y[..., 2 * C :]], 3 * C),
}


def count(program: ExportedProgram, *targets: object) -> int:
    return sum(node.target in targets for node in program.graph.nodes)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_part_is_a_projection_of_its_own(spelling: str) -> None:
    torch.manual_seed(0)
    model, x = Packed(*SPELLINGS[spelling]), torch.randn(B, S, C)
    optimized = passes.optimize_for_ane(model, (x,), pipeline=PIPELINE, verify=True)
    fresh = torch.randn(B, S, C)
    want = model(fresh)
    for got, part in zip(optimized(fresh), want, strict=True):
        torch.testing.assert_close(got, part, rtol=1e-5, atol=1e-6)
    cuts = (aten.slice.Tensor, aten.select.int, aten.split_with_sizes.default, aten.split.Tensor)
    assert count(optimized.program, *cuts, aten.unbind.int) == 0
    assert count(optimized.program, aten.linear.default) == len(want)


def test_multihead_attention_stacks_three() -> None:
    torch.manual_seed(0)
    model, x = Packed(stacked), torch.randn(S, B, C)
    optimized = passes.optimize_for_ane(model, (x,), pipeline=PIPELINE)
    assert count(optimized.program, aten.linear.default) == 3
    for got, want in zip(optimized(x), model(x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_neighbouring_rows_are_views_of_the_weight() -> None:
    model = Packed(*SPELLINGS["chunk"])
    optimized = passes.optimize_for_ane(model, (torch.randn(B, S, C),), pipeline=PIPELINE)
    held = [*optimized.program.state_dict.values(), *optimized.program.constants.values()]
    assert len(held) == 6
    stored = {t.untyped_storage().data_ptr() for t in held}
    assert stored == {t.untyped_storage().data_ptr() for t in model.linear.parameters()}


class Twice(nn.Module):
    """A packed layer that is called two times."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(C, 3 * C)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            q, k, v = self.linear(x).chunk(3, -1)
            x = q * k + v
        return x


def test_a_layer_that_is_called_twice_stores_its_rows_once() -> None:
    model = Twice()
    optimized = passes.optimize_for_ane(model, (torch.randn(B, S, C),), pipeline=PIPELINE)
    assert count(optimized.program, aten.linear.default) == 6
    assert len([*optimized.program.state_dict, *optimized.program.constants]) == 6


def test_tokens_may_be_of_any_number() -> None:
    model = Packed(lambda y: list(y.unflatten(-1, (3, H, D)).permute(2, 0, 3, 1, 4).unbind(0)))
    tokens = torch.export.Dim("tokens", min=2, max=64)
    x = torch.randn(B, S, C)
    optimized = passes.optimize_for_ane(
        model, (x,), dynamic_shapes={"x": {1: tokens}}, pipeline=PIPELINE
    )
    assert count(optimized.program, aten.linear.default) == 3
    longer = torch.randn(B, 11, C)
    for got, want in zip(optimized(longer), model(longer), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def partly_rotated(y: Tensor) -> list[Tensor]:
    return [torch.cat([y[..., :C].neg(), y[..., C:] * 2], -1)]


def pairs(y: Tensor) -> list[Tensor]:
    return list(y.view(B, S, 3 * C // 2, 2).unbind(-1))


@pytest.mark.parametrize(
    "take",
    [
        lambda y: [y, y[..., :C]],
        lambda y: [y[:, :1], y[:, 1:]],
        lambda y: [y[:, :3, :C], y[..., C:]],
        pairs,
        partly_rotated,
        lambda y: [y],
    ],
    ids=["whole as well", "tokens", "tokens and channels", "pairs", "joined again", "nothing"],
)
def test_what_is_no_packed_projection_stays(take: Callable[[Tensor], list[Tensor]]) -> None:
    model = Packed(take)
    optimized = passes.optimize_for_ane(model, (torch.randn(B, S, C),), pipeline=PIPELINE)
    assert count(optimized.program, aten.linear.default) == 1


def test_the_gates_of_a_cell_stay() -> None:
    model = Packed(lambda y: list(y.chunk(3, -1)))
    optimized = passes.optimize_for_ane(model, (torch.randn(B, C),), pipeline=PIPELINE)
    assert count(optimized.program, aten.linear.default) == 1


class Tied(nn.Module):
    """A packed weight that is looked up in, too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(C, 2 * C, bias=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        row = nn.functional.embedding((x[0, 0, :1] > 0).long(), self.linear.weight)
        return [part + row.sum() for part in self.linear(x).chunk(2, -1)]


def every_fourth(y: Tensor) -> list[Tensor]:
    return [y.view(B, S, 6, 16)[:, :, 1::4], y[..., :8]]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Packed(lambda y: [y[..., : 2 * C], y[..., C:]]), "overlap"),
        (Packed(every_fourth), "no regular choice"),
        (Tied(), "used elsewhere"),
    ],
    ids=["overlap", "irregular", "tied"],
)
def test_refusals_have_a_reason(model: nn.Module, reason: str) -> None:
    optimized = passes.optimize_for_ane(model, (torch.randn(B, S, C),), pipeline=PIPELINE)
    (report,) = [r for r in optimized.reports if r.name == "unpack_projections"]
    assert any(reason in declined.reason for declined in report.declined)
    x = torch.randn(B, S, C)
    for got, want in zip(optimized(x), model(x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
