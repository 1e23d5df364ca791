"""Advice and notes of a plan fit the program that they are about."""

import coremltools as ct
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from torch import nn

from lowering import convert, plan
from lowering.ablation.compare import PackageComparison, PackageFigures
from lowering.cli.summary import package_json


def image_program(scale):
    module = nn.Conv2d(3, 8, 3).eval()
    image = ct.ImageType("x", (1, 3, 64, 64), scale=scale)
    traced = torch.jit.trace(module, torch.rand(1, 3, 64, 64))
    return ct.convert(traced, inputs=[image], minimum_deployment_target=ct.target.iOS17,
                      skip_model_load=True)  # fmt: skip


@pytest.mark.parametrize("scale", [1 / 255, 2 / 255, 0.5])
def test_a_float16_program_is_not_told_to_be_float16(scale):
    made = plan(image_program(scale))
    hints = {op.reason.hint for op in made.ops if op.reason and op.reason.rule.startswith("dtype")}
    assert hints and not any("FLOAT16" in hint for hint in hints)


def test_a_float32_program_is_told_to_be_float16():
    made = plan(convert(nn.Linear(64, 64), (torch.ones(1, 64),),
                        compute_precision=ct.precision.FLOAT32))  # fmt: skip
    assert any(op.reason and "FLOAT16" in op.reason.hint for op in made.ops)


@pytest.mark.parametrize("function", [mb.asin, mb.tan, mb.sinh])
def test_nobody_is_told_to_move_the_whole_program_to_the_host(function):
    @mb.program(input_specs=[mb.TensorSpec((64, 4096), types.fp16)])
    def program(x):
        return function(x=mb.atanh(x=x))

    assert not any(advice.change == "host" for advice in plan(program).advice)


def test_part_of_a_program_may_move():
    @mb.program(input_specs=[mb.TensorSpec((1, 512, 32, 32), types.fp16)])
    def program(x):
        weight = torch.randn(512, 512, 3, 3).half().numpy()
        return mb.conv(x=mb.conv(x=mb.tan(x=x), weight=weight), weight=weight)

    assert any(advice.change == "host" for advice in plan(program).advice)


@pytest.mark.parametrize(("module", "kind"), [(nn.LSTM, "lstm"), (nn.GRU, "gru"), (nn.RNN, "rnn")])
def test_prices_that_rest_on_little_say_so(module, kind):
    made = plan(convert(module(8, 8).eval(), (torch.ones(4, 1, 8),)))
    told = [note for note in made.notes if f"the price of {kind} " in note]
    assert bool(told) == any(op.op_type == kind for op in made.ops)
    assert not any("the price of" in n for n in plan(image_program(1.0)).notes)


def test_a_small_program_on_the_cpu_is_no_loss():
    made = plan(convert(nn.Conv2d(3, 4, 1), (torch.ones(1, 3, 8, 8),)))
    assert not any(op.device == "ane" for op in made.ops)
    assert any("no loss" in note for note in made.notes)


def test_a_lower_price_with_less_on_the_ane_is_a_gain(tmp_path):
    for name, sizes in (("large", (512, 64, 64)), ("small", (4, 8, 8))):
        module = nn.Sequential(nn.Conv2d(sizes[0], sizes[0], 3), nn.ReLU()).eval()
        made = convert(module, (torch.ones(1, *sizes),), skip_model_load=True)
        made.save(str(tmp_path / f"{name}.mlpackage"))
    large, small = (PackageFigures.of(tmp_path / f"{n}.mlpackage") for n in ("large", "small"))
    assert large.predicted[0].ane_cost > small.predicted[0].ane_cost
    (note,) = PackageComparison(large, small, None).notes()
    assert "small.mlpackage has less on the ANE and still the lower price" in note
    assert list(PackageComparison(small, large, None).notes()) == [note]
    assert not list(PackageComparison(large, large, None).notes())


def test_sizes_that_vary_are_printed_as_such(tmp_path):
    from lowering import save

    n = torch.export.Dim("n", min=1, max=64)
    made = convert(nn.ReLU(), (torch.ones(8, 4),), dynamic_shapes=({0: n},))
    assert package_json(made, save(made, tmp_path / "n"))["inputs"][0]["shape"] == ["1..64", 4]


def test_loops_and_lists_are_planned():
    @mb.program(input_specs=[mb.TensorSpec((2, 4))])
    def program(x):
        items = mb.make_list(init_length=2, elem_shape=(4,))

        def body(i, items):
            row = mb.gather(x=x, indices=i, axis=0)
            return mb.add(x=i, y=1), mb.list_write(ls=items, index=i, value=row)

        _, filled = mb.while_loop(
            _cond=lambda i, items: mb.less(x=i, y=2), _body=body, loop_vars=(0, items)
        )
        return mb.list_gather(ls=filled, indices=[1, 0])

    made = plan(program)
    kinds = [op.op_type for op in made.ops]
    assert {"make_list", "while_loop", "list_write", "list_gather"} <= set(kinds)
    assert all(op.reason for op in made.ops if op.op_type.startswith("list"))
