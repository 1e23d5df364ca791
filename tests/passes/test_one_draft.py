"""All passes edit one draft, which becomes a program once."""

from unittest import mock

import pytest
import torch
from torch import nn

import passes
from frontend.capturing import capture
from frontend.program import Draft
from passes.pipeline import run
from passes.simplify_algebra import SimplifyAlgebra


def attention():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return layer.eval(), torch.randn(1, 5, 16)


def convolution():
    return nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.GELU()).eval(), torch.randn(
        1, 4, 9
    )


def perceptron():
    return nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 4)).eval(), torch.randn(3, 8)


MODELS = [attention, convolution, perceptron]


def operators(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("make", MODELS)
def test_a_program_is_made_once(make):
    model, x = make()
    program = capture(model, (x,))
    with mock.patch.object(Draft, "close", autospec=True, side_effect=Draft.close) as close:
        run(program, passes.DEFAULT_PIPELINE)
    assert close.call_count == 1


@pytest.mark.parametrize("make", MODELS)
def test_closing_after_each_pass_gives_the_same(make):
    model, x = make()
    program = capture(model, (x,))
    steps = []
    once, reports = run(program, passes.DEFAULT_PIPELINE)
    each, again = run(
        program, passes.DEFAULT_PIPELINE, after_each=lambda step, left: steps.append(left)
    )
    assert len(steps) == len(again) == len(passes.DEFAULT_PIPELINE) and steps[-1] is each
    calls = [
        [str(n.target) for n in p.graph.nodes if n.op == "call_function"] for p in (once, each)
    ]
    assert calls[0] == calls[1]
    assert set(once.state_dict) == set(each.state_dict)
    for one, two in zip(reports, again, strict=True):
        assert (one.name, one.rewrites, one.ops_before, one.ops_after, one.bytes_added) == (
            two.name,
            two.rewrites,
            two.ops_before,
            two.ops_after,
            two.bytes_added,
        )
    (one,), (two,) = once.module()(x), each.module()(x)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    torch.testing.assert_close(one, model(x), rtol=1e-5, atol=1e-5)


def test_what_changes_nothing_is_the_program_itself():
    program = capture(nn.Tanh(), (torch.randn(2, 3),))
    after, (report,) = run(program, (SimplifyAlgebra(),))
    assert after is program and report.rewrites == 0


def test_progress_names_every_pass_in_order():
    names = []
    run(capture(nn.Tanh(), (torch.randn(2),)), passes.DEFAULT_PIPELINE, progress=names.append)
    assert names == [step.name for step in passes.DEFAULT_PIPELINE]
