"""The interface of a package is the program's: names, order, count, shapes, element types."""

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

import passes
from lowering import convert
from lowering.conversion.interface import RenamedWarning
from lowering.errors import LoweringError
from lowering.reference import load


def twice(x):
    y = x * 2 + 1
    return y, y


def copies(x):
    y = x.exp()
    return {"a": y, "b": y.float(), "c": y.clone(), "d": y.to(torch.float64), "e": y[:]}


def computed_twice(x):
    return {"first": torch.sin(x), "middle": x.relu(), "second": torch.sin(x)}


def nested(x):
    hidden = x.relu()
    return {"last": hidden, "states": (x, hidden.float()), "sum": hidden.sum()}


def inputs_and_moves(x):
    return x, x.float(), x.reshape(3, 2), x.reshape(6).reshape(3, 2), x + 0


def integers(x):
    count = (x > 0).sum()
    return count, count.int(), (x > 0).sum(), x > 0, (x > 0).to(torch.uint8)


def constants(x):
    table = torch.arange(3.0)
    return table, table * 1, torch.zeros(3), x * 0 + table, torch.zeros(3)


def softmaxes(x):
    return x.softmax(-1), x.log_softmax(-1).exp(), x.softmax(-1).transpose(0, 1), x.softmax(1)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


FUNCTIONS = [
    twice,
    copies,
    computed_twice,
    nested,
    inputs_and_moves,
    integers,
    constants,
    softmaxes,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize(
    ("precision", "optimize"),
    [(ct.precision.FLOAT16, True), (ct.precision.FLOAT16, False), (ct.precision.FLOAT32, True)],
)
def test_equal_outputs_come_out_apart(function, precision, optimize):
    torch.manual_seed(0)
    model, x = Function(function).eval(), torch.randn(2, 3)
    source, given = (passes.optimize_for_ane(model, (x,)), None) if optimize else (model, (x,))
    package = convert(source, given, compute_precision=precision, skip_model_load=True)
    names = [item.name for item in package.get_spec().description.output]
    wanted = torch.utils._pytree.tree_leaves(function(x))
    assert len(set(names)) == len(names) == len(wanted)
    if isinstance(function(x), dict):
        assert names[0] == next(iter(function(x)))
    found = load(package)({"x": x.numpy()})
    assert list(found) == names
    for value, want in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(
            value.reshape(want.shape), want.double(), rtol=2e-3, atol=2e-3, err_msg=str(names)
        )


def test_equal_outputs_may_have_types_of_their_own():
    package = convert(
        Function(twice),
        (torch.randn(2, 3),),
        outputs=[ct.TensorType("half", dtype=np.float16), ct.TensorType("full", dtype=np.float32)],
        skip_model_load=True,
    )
    found = load(package)({"x": np.ones((2, 3), np.float32)})
    assert {name: value.dtype for name, value in found.items()} == {
        "half": np.float16,
        "full": np.float32,
    }


def test_outputs_cannot_share_a_name():
    for names in (["y", "y"], ["a.b", "a_b"]):
        with pytest.raises(LoweringError, match="two outputs of the package"):
            convert(Function(twice), (torch.randn(2, 3),), outputs=names)


@pytest.mark.parametrize(
    "result", [lambda x: None, lambda x: (), lambda x: {"n": 3, "text": "no"}, lambda x: [None]]
)
def test_a_model_that_returns_nothing_is_refused(result):
    with pytest.raises(LoweringError, match="returns no tensor"):
        convert(Function(result), (torch.randn(2, 3),))
    with pytest.raises(LoweringError, match="returns no tensor"):
        convert(passes.optimize_for_ane(Function(result), (torch.randn(2, 3),)))


def test_a_model_that_only_writes_is_refused():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kept", torch.zeros(2, 3))

        def forward(self, x):
            self.kept.copy_(x)

    with pytest.raises(LoweringError, match=r"returns no tensor[\s\S]*new value of a buffer"):
        convert(Writes(), (torch.randn(2, 3),), minimum_deployment_target=ct.target.iOS18)


class Reserved(nn.Module):
    def forward(self, state, tensor, plain):
        return {"list": state + tensor, "sum": plain + 1}


def test_reserved_names_are_told():
    """Core ML's own words cannot name an input or output; the others stay without a word."""
    x = torch.ones(2, 3)
    optimized = passes.optimize_for_ane(Reserved(), (x, x, x))
    with pytest.warns(RenamedWarning) as told:
        made = convert(optimized, skip_model_load=True)
    texts = [str(item.message) for item in told if item.category is RenamedWarning]
    assert len(texts) == 2
    assert "'state' is 'state_workaround'" in texts[0] and "plain" not in texts[0]
    assert "'list' is 'list_workaround'" in texts[1] and "sum" not in texts[1]
    found = {item.name for item in made.get_spec().description.input}
    assert found == {"state_workaround", "tensor_workaround", "plain"}
