"""Selections of single tokens move up through what treats each token alone."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torch.export import ExportedProgram

from passes.base import Pass
from passes.fold_constants import FoldConstants
from passes.select_early import SelectEarly
from tests.passes.util import assert_same, run_pass

aten = torch.ops.aten
LAST = torch.tensor([5])


def rewritten(module: nn.Module, inputs: tuple, *steps: Pass) -> tuple[ExportedProgram, int]:
    """The program after the passes, held against the module; how often the last one rewrote."""
    _, after, reports = run_pass(module.eval(), inputs, *steps)
    assert_same(module, after, inputs)
    return after, reports[-1].rewrites


def calls(program: ExportedProgram, *targets: object) -> list[fx.Node]:
    return [n for n in program.graph.nodes if n.op == "call_function" and n.target in targets]


class Head(nn.Module):
    """Logits of one token of a residual stream."""

    def __init__(self, *, returns_all: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 24)
        self.norm, self.returns_all = nn.LayerNorm(8), returns_all

    def forward(self, x, last):
        h = torch.tanh(x)
        h = h + self.down(torch.nn.functional.silu(self.up(self.norm(h))))
        logits = torch.index_select(self.head(self.norm(h)), 1, last)
        return (logits, h) if self.returns_all else logits


class Heads(nn.Module):
    """A selection behind heads that were put side by side again."""

    def forward(self, x, last):
        heads = (x * 2).transpose(1, 2).reshape(1, x.shape[2], -1)
        return torch.index_select(heads, 1, last)


class Mixed(nn.Module):
    """Tokens are mixed: every one depends on all."""

    def forward(self, x, last):
        return torch.index_select(torch.cumsum(x, 1), 1, last)


class Averaged(nn.Module):
    """The scale of each token, and one number of all of them."""

    def forward(self, x, last):
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)) + x.mean()
        return torch.index_select(scaled, 1, last)


def test_a_head_computes_one_token():
    x = torch.randn(1, 9, 8)
    program, rewrites = rewritten(Head(), (x, LAST), SelectEarly())
    assert rewrites == 1
    linear = calls(program, aten.linear.default)
    assert [tuple(node.meta["val"].shape) for node in linear] == [(1, 1, 16), (1, 1, 8), (1, 1, 24)]
    (select,) = calls(program, aten.index_select.default)
    assert select.args[0].name == "x"


def test_what_is_read_elsewhere_stays_whole():
    x = torch.randn(1, 9, 8)
    program, _ = rewritten(Head(returns_all=True), (x, LAST), SelectEarly())
    sizes = [tuple(n.meta["val"].shape)[1] for n in calls(program, aten.linear.default)]
    assert sizes == [9, 9, 1]


def test_reshapes_and_permutations_keep_the_axis():
    program, _ = rewritten(Heads(), (torch.randn(1, 4, 9, 8), LAST), SelectEarly())
    (select,) = calls(program, aten.index_select.default)
    assert select.args[0].name == "x" and select.args[1] == 2


@pytest.mark.parametrize("module", [Mixed(), Averaged()])
def test_tokens_that_are_mixed_are_not_passed(module: nn.Module):
    x = torch.randn(1, 9, 8)
    program, _ = rewritten(module, (x, LAST), FoldConstants(), SelectEarly())
    kinds = (aten.cumsum.default, aten.mean.dim, aten.mean.default)
    mixing = [n for n in calls(program, *kinds) if n.all_input_nodes[0].name == "x"]
    assert mixing and all(n.all_input_nodes[0].meta["val"].shape[1] == 9 for n in mixing)


def test_a_selection_of_all_is_left():
    x, order = torch.randn(1, 4, 8), torch.tensor([3, 1, 0, 2])
    _, rewrites = rewritten(Head(), (x, order), SelectEarly())
    assert rewrites == 0
