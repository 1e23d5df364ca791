"""optimize_for_ane as its users call it: any signature in, the same signature out."""

import collections
import dataclasses
from typing import NamedTuple

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from passes import InputError, optimize_for_ane
from tests.passes.util import assert_same, seeded

X, Y = seeded(2, 5, 8), seeded(2, 5, 8, seed=1)


@dataclasses.dataclass
class Result:
    hidden: torch.Tensor
    pooled: torch.Tensor | None = None


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Net(nn.Module):
    """Two linears around what a test wants to know; ``body`` gets them and the arguments."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.body = body

    def forward(self, x, y=None, *, scale=None):
        return self.body(self, x, y, scale)


def shapes(result):
    """A result with every tensor replaced by its shape and dtype."""
    return torch.utils._pytree.tree_map_only(
        torch.Tensor, lambda t: (tuple(t.shape), t.dtype), result
    )


def assert_same_result(want, have):
    """Equal types all the way down, and close tensors."""
    if isinstance(want, torch.Tensor):
        torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-6)
        return
    assert type(want) is type(have)
    if dataclasses.is_dataclass(want) and not isinstance(want, dict):
        for field in dataclasses.fields(want):
            assert_same_result(getattr(want, field.name), getattr(have, field.name))
    elif isinstance(want, dict):
        assert list(want) == list(have)
        for key in want:
            assert_same_result(want[key], have[key])
    elif isinstance(want, tuple | list):
        assert len(want) == len(have)
        for one, other in zip(want, have, strict=True):
            assert_same_result(one, other)
    else:
        assert want == have


RESULTS = {
    "tensor": lambda m, x, y, s: m.two(m.one(x).relu()),
    "tuple": lambda m, x, y, s: (m.one(x), m.two(x)),
    "list": lambda m, x, y, s: [m.one(x), m.two(x)],
    "tuple_of_one": lambda m, x, y, s: (m.one(x),),
    "named_tuple": lambda m, x, y, s: Pair(m.one(x), m.two(x)),
    "dict": lambda m, x, y, s: {"b": m.one(x), "a": m.two(x)},
    "ordered_dict": lambda m, x, y, s: collections.OrderedDict(b=m.one(x), a=m.two(x)),
    "dict_with_int_keys": lambda m, x, y, s: {1: m.one(x), 0: m.two(x)},
    "dataclass": lambda m, x, y, s: Result(m.one(x), m.two(x)),
    "dataclass_with_none": lambda m, x, y, s: Result(m.one(x)),
    "model_output": lambda m, x, y, s: BaseModelOutput(
        last_hidden_state=m.one(x), hidden_states=(x, m.two(x))
    ),
    "nested": lambda m, x, y, s: {"a": [m.one(x), (m.two(x), {"deep": x.sum(-1)})], "n": None},
    "none_and_constants": lambda m, x, y, s: (m.one(x), None, 3, 0.5, "text", True, []),
    "named_result_of_torch": lambda m, x, y, s: torch.max(m.one(x), dim=-1),
    "input_itself": lambda m, x, y, s: (x, m.one(x)),
    "only_the_input": lambda m, x, y, s: x,
    "view_of_the_input": lambda m, x, y, s: (x.transpose(1, 2), m.one(x)),
    "input_twice": lambda m, x, y, s: (x, x, m.one(x)),
    "same_value_twice": lambda m, x, y, s: (lambda h: (h, h, h.relu()))(m.one(x)),
    "weight_itself": lambda m, x, y, s: (m.one.weight, m.one(x)),
    "constant_tensor": lambda m, x, y, s: (m.one(x), torch.arange(4), torch.ones(2)),
    "only_constants": lambda m, x, y, s: torch.ones(2, 3),
    "scalar_tensor": lambda m, x, y, s: m.one(x).mean(),
    "integer_and_bool": lambda m, x, y, s: (m.one(x).argmax(-1), m.one(x) > 0),
}


@pytest.mark.parametrize("name", RESULTS)
def test_result_is_of_the_same_kind(name):
    model = Net(RESULTS[name])
    optimized = optimize_for_ane(model, (X,))
    with torch.no_grad():
        assert_same_result(model(Y), optimized(Y))


CALLS = {
    "positional": ((X, Y), {}),
    "keyword": ((X,), {"y": Y}),
    "all_keywords": ((), {"x": X, "y": Y}),
    "keywords_swapped": ((), {"y": Y, "x": X}),
    "keyword_only": ((X,), {"y": Y, "scale": torch.tensor(2.0)}),
    "explicit_none": ((X, None), {}),
    "optional_left_out": ((X,), {}),
    "dict": (({"a": X, "b": Y},), {}),
    "tuple_inside": (((X, Y),), {}),
    "list_inside": (([X, Y],), {}),
    "python_number": ((X,), {"scale": 0.5}),
    "python_bool": ((X, True), {}),
}


def whatever(m, x, y, scale):
    if isinstance(x, dict):
        x, y = x["a"], x["b"]
    elif isinstance(x, tuple | list):
        x, y = x
    h = m.one(x)
    if isinstance(y, torch.Tensor):
        h = h + m.two(y)
    elif y:
        h = h.relu()
    return h if scale is None else h * scale


@pytest.mark.parametrize("name", CALLS)
def test_call_signature_is_kept(name):
    args, kwargs = CALLS[name]
    model = Net(whatever)
    optimized = optimize_for_ane(model, args, kwargs=kwargs)
    with torch.no_grad():
        torch.testing.assert_close(
            optimized(*args, **kwargs), model(*args, **kwargs), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((X, Y), {}), ((X,), {"y": Y}), ((), {"x": X, "y": Y}), ((X, Y), {"scale": None})],
)
def test_any_spelling_of_the_captured_call_works(args, kwargs):
    model = Net(whatever)
    optimized = optimize_for_ane(model, (X,), kwargs={"y": Y})
    with torch.no_grad():
        torch.testing.assert_close(optimized(*args, **kwargs), model(X, Y), rtol=1e-5, atol=1e-6)


def test_defaults_may_be_given():
    class Defaults(nn.Module):
        def forward(self, x, gain=2.0, *, relu=True):
            return (x * gain).relu() if relu else x * gain

    optimized = optimize_for_ane(Defaults(), (X,))
    torch.testing.assert_close(optimized(X, gain=2.0, relu=True), Defaults()(X))
    with pytest.raises(InputError, match="relu"):
        optimized(X, relu=False)


def test_captured_constants_cannot_be_changed():
    optimized = optimize_for_ane(Net(whatever), (X, True), kwargs={"scale": 0.5})
    optimized(X, True, scale=0.5)
    with pytest.raises(InputError, match="scale"):
        optimized(X, True, scale=0.25)
    with pytest.raises(InputError, match="y"):
        optimized(X, False, scale=0.5)


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing"),
        ((X, Y, Y), {}, "too many positional"),
        ((X,), {"z": Y}, "unexpected keyword"),
        ((X[:1],), {}, "input x does not fit"),
        ((X[0],), {}, "input x does not fit"),
        ((X.double(),), {}, "torch.float64"),
        ((X,), {"y": Y}, "not captured"),
        ((None,), {}, "x"),
    ],
)
def test_wrong_calls_are_refused(args, kwargs, text):
    optimized = optimize_for_ane(Net(whatever), (X,))
    with pytest.raises(InputError, match=text):
        optimized(*args, **kwargs)


def test_varargs_and_kwargs():
    class Any(nn.Module):
        def forward(self, *xs, **named):
            return xs[0] + xs[1] * named["gain"]

    call = ((X, Y), {"gain": X})
    optimized = optimize_for_ane(Any(), call[0], kwargs=call[1])
    torch.testing.assert_close(optimized(*call[0], **call[1]), Any()(*call[0], **call[1]))


def test_outputs_have_readable_names():
    model = Net(lambda m, x, y, s: {"logits": m.one(x), "more": (m.two(x), x)})
    program = optimize_for_ane(model, (X,)).program
    assert list(program.graph_signature.user_outputs) == ["logits", "more_0", "more_1"]
    assert list(program.graph_signature.user_inputs) == ["x"]


# --- weights and modules ------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.embedding(ids))


def test_tied_weights_are_stored_once():
    model = Tied()
    optimized = optimize_for_ane(model, (torch.tensor([[1, 2, 3]]),))
    stored = {t.untyped_storage().data_ptr() for t in optimized.program.state_dict.values()}
    assert stored == {model.embedding.weight.untyped_storage().data_ptr()}
    assert_same(model, optimized, torch.tensor([[9, 0, 10]]))


def test_weights_are_shared_and_not_copied():
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    optimized = optimize_for_ane(model, (X,))
    mine = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    assert {t.untyped_storage().data_ptr() for t in optimized.program.state_dict.values()} == mine


def test_shared_module():
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), layer)
    optimized = optimize_for_ane(model, (X,))
    assert len(optimized.program.state_dict) == 2
    assert_same(model, optimized, Y)


def snapshot(model):
    modules = [
        (name, m.training, dict(m._forward_hooks), dict(m.__dict__))
        for name, m in model.named_modules()
    ]
    tensors = {
        name: (id(t), t.device, t.dtype, t.requires_grad, t.clone())
        for name, t in [*model.named_parameters(), *model.named_buffers()]
    }
    return modules, tensors
