"""Values that follow from a position alone become rows of a table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from frontend.capturing import capture
from frontend.program import runnable
from passes.base import Pass
from passes.fold_constants import FoldConstants
from passes.fold_rotation_sign import FoldRotationSign
from passes.pipeline import run
from passes.tabulate_positions import TabulatePositions

aten = torch.ops.aten
POSITIONS = 40


class Rotary(nn.Module):
    """Queries turned by the angles of their positions."""

    def __init__(self, tokens: int, width: int = 8) -> None:
        super().__init__()
        self.tokens = tokens
        self.register_buffer("frequencies", 10.0 ** -torch.linspace(0, 1, width // 2))

    def angles(self, position):
        at = position + torch.arange(self.tokens)
        return torch.cat([at[:, None].float() * self.frequencies] * 2, -1)

    def forward(self, x, position):
        angles = self.angles(position)
        half = x.shape[-1] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * angles.cos()[None, None] + turned * angles.sin()[None, None]


class Scaled(Rotary):
    """The rows stand on another axis, and one value is one number for each token."""

    def forward(self, x, position):
        logs = torch.log(1.0 + position + torch.arange(self.tokens).float())
        return x * self.angles(position).cos().T[None, None].mT + logs[:, None]


class Masked(Rotary):
    """A float mask, which is no table."""

    def forward(self, x, position):
        seen = torch.arange(8) <= (position + torch.arange(self.tokens))[:, None]
        return x + torch.where(seen, 0.0, -1e4)


class Whole(Rotary):
    """A token's row depends on where the step begins: there is one row for each beginning."""

    def forward(self, x, position):
        angles = self.angles(position)
        return x * angles.cumsum(0).cos() * angles.sum().sin()


class Biases(Rotary):
    """A row for each token over 300 keys and 8 heads: wider than most, and still a small table."""

    def forward(self, x, position):
        at = position + torch.arange(self.tokens)
        apart = (at[:, None] - torch.arange(300)).clamp(min=0).float()
        return x.mean() + (torch.log1p(apart) * torch.arange(1.0, 9.0)[:, None, None]).cos()


class Wide(Rotary):
    """One row for each beginning, too wide for a table."""

    def forward(self, x, position):
        angles = self.angles(position).cumsum(0)
        return x.sum() + (angles[:, :1] * torch.arange(200_000.0)).cos()


class Distances(Rotary):
    """As many keys as there are positions, each by its distance from the token."""

    def forward(self, x, position):
        distance = (torch.arange(POSITIONS) - position).float()
        return x.sum() + torch.exp(0.1 * distance)


class OnData(Rotary):
    """The angles depend on an input as well."""

    def forward(self, x, position):
        return x * (self.angles(position) + x.mean()).cos()


def rewritten(model: nn.Module, tokens: int, *passes: Pass):
    x = torch.randn(1, 3, tokens, 8)
    position = torch.tensor([0], dtype=torch.int32)
    program, reports = run(capture(model.eval(), (x, position)), (FoldConstants(), *passes))
    return program, reports[-1]


def kinds(program) -> list:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("model", [Rotary, Scaled, Whole])
@pytest.mark.parametrize("tokens", [1, 4])
def test_one_table_gathered_once(model: type[Rotary], tokens: int):
    module = model(tokens)
    program, report = rewritten(module, tokens, TabulatePositions(positions=POSITIONS))
    assert report.rewrites >= 2
    assert kinds(program).count(aten.embedding.default) == 1
    assert not {aten.cos.default, aten.sin.default, aten.log.default} & set(kinds(program))
    for at in (0, 1, 17, POSITIONS - tokens):
        x = torch.randn(1, 3, tokens, 8)
        position = torch.tensor([at], dtype=torch.int32)
        (found,) = runnable(program)(x, position)
        torch.testing.assert_close(found, module(x, position), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 4])
def test_a_small_table_may_have_wide_rows(tokens: int):
    module = Biases(tokens)
    program, report = rewritten(module, tokens, TabulatePositions(positions=POSITIONS))
    assert report.rewrites == 1
    assert not {aten.cos.default, aten.log1p.default} & set(kinds(program))
    for at in (0, 9, POSITIONS - tokens):
        x = torch.randn(1, 3, tokens, 8)
        position = torch.tensor([at], dtype=torch.int32)
        (found,) = runnable(program)(x, position)
        torch.testing.assert_close(found, module(x, position), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("model", "reason"), [(Masked, "mask"), (Wide, "no row for each token")])
def test_what_is_no_table_is_left(model: type[Rotary], reason: str):
    program, report = rewritten(model(4), 4, TabulatePositions(positions=POSITIONS))
    assert report.rewrites == 0
    assert any(reason in declined.reason for declined in report.declined)
    assert aten.embedding.default not in kinds(program)


@pytest.mark.parametrize(
    "options", [{"name_of_input": "other"}, {"name_of_input": "x"}, {"positions": 1 << 20}]
)
def test_other_inputs_are_left(options):
    program, report = rewritten(Rotary(4), 4, TabulatePositions(**options))
    assert report.rewrites == 0
    assert aten.embedding.default not in kinds(program)


def test_what_depends_on_data_is_computed():
    program, report = rewritten(OnData(4), 4, TabulatePositions(positions=POSITIONS))
    assert report.rewrites == 1  # the angles
    assert aten.cos.default in kinds(program)


def test_signs_move_into_the_sines():
    module = Rotary(2)
    program, report = rewritten(module, 2, FoldRotationSign())
    assert report.rewrites == 1
    assert aten.neg.default not in kinds(program)
    x, position = torch.randn(1, 3, 2, 8), torch.tensor([5], dtype=torch.int32)
    (found,) = runnable(program)(x, position)
    assert torch.equal(found, module(x, position))


class Signs(nn.Module):
    def __init__(self, build) -> None:
        super().__init__()
        self.build = build

    def forward(self, x, s):
        return self.build(x, s)


@pytest.mark.parametrize(
    ("build", "rewrites"),
    [
        (lambda x, s: torch.cat([-x, x], 1) * s, 0),  # s does not span the axis
        (lambda x, s: torch.cat([x, -x], -1) * s.repeat(2), 1),
        (lambda x, s: s.repeat(3) * torch.cat([x, -x, x], 2), 1),
        (lambda x, s: torch.cat([x, x], -1) * s.repeat(2), 0),  # no sign
        (lambda x, s: torch.cat([-x, x], -1) * torch.cat([x, x], -1), 0),  # nothing is smaller
        (lambda x, s: torch.cat([-x, x], -1) * s.repeat(2) + torch.cat([-x, x], -1), 1),
    ],
)
def test_where_signs_can_move(build, rewrites: int):
    module = Signs(build)
    x, s = torch.randn(2, 3, 4), torch.randn(4)
    program, (report,) = run(capture(module, (x, s)), (FoldRotationSign(),))
    assert report.rewrites == rewrites
    (found,) = runnable(program)(x, s)
    assert torch.equal(found, module(x, s))


def test_keys_are_no_tokens_even_where_there_are_as_many_as_positions():
    module = Distances(1)
    program, _ = rewritten(module, 1, TabulatePositions(positions=POSITIONS))
    for at in (0, 1, 17, POSITIONS - 1):
        x, position = torch.randn(1, 3, 1, 8), torch.tensor([at], dtype=torch.int32)
        (found,) = runnable(program)(x, position)
        torch.testing.assert_close(found, module(x, position), rtol=1e-5, atol=1e-6)
