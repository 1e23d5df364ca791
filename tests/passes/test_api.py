"""optimize_for_ane as its users call it: any signature in, the same signature out."""

import collections
import copy
import dataclasses
import warnings
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from util import assert_same, seeded

from frontend.errors import CaptureError
from passes import InputError, OptimizedModel, optimize_for_ane

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


class Busy(nn.Module):
    """Everything that capture might disturb."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.norm, self.drop = nn.Linear(8, 8), nn.BatchNorm1d(5), nn.Dropout(0.5)
        self.one.weight.requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return F.dropout(self.drop(self.norm(self.one(x))), training=self.training)


@pytest.mark.parametrize("training", [True, False])
def test_the_users_module_stays_as_it_was(training):
    model = Busy().train(training)
    model.norm.eval()
    seen = []
    model.one.register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape)))
    modules, tensors = snapshot(model)
    optimize_for_ane(model, (X,))
    again, tensors_again = snapshot(model)
    assert [m[:3] for m in modules] == [m[:3] for m in again]
    assert all(a[3].keys() == b[3].keys() for a, b in zip(modules, again, strict=True))
    assert model.calls == 0 and "forward" not in model.__dict__
    for name, (*about, value) in tensors.items():
        assert about == list(tensors_again[name][:-1])
        assert torch.equal(value, tensors_again[name][-1])
    assert model.training is training


def test_the_users_module_stays_as_it_was_after_a_failure():
    class Fails(Busy):
        def forward(self, x):
            raise ZeroDivisionError("no")

    model = Fails().train()
    with pytest.raises(CaptureError, match="ZeroDivisionError"):
        optimize_for_ane(model, (X,))
    assert all(m.training for m in model.modules()) and "forward" not in model.__dict__


def test_train_mode_is_captured_for_inference():
    """Dropout at the top level asks the module itself for its mode."""
    model = Busy().train()
    optimized = optimize_for_ane(model, (X,))
    assert_same(copy.deepcopy(model).eval(), optimized, Y)
    assert not optimized.train().training


def test_activations_remembered_by_the_model_do_not_leak():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 8)
            self.last = None

        def forward(self, x):
            self.last = self.inner(x)
            return self.last * 2

    model = nn.Sequential(Remembers(), nn.ReLU())
    for each, inner in ((model, model[0]), (model[0], model[0])):
        optimized = optimize_for_ane(each, (X,))
        assert inner.last is None
        assert_same(each, optimized, Y)
        inner.last = None


def test_hooks_of_the_user_are_part_of_the_model():
    model = Net(RESULTS["dict"])
    model.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    model.register_forward_hook(lambda m, args, result: {"c": result["a"] + 1})
    model.one.register_forward_hook(lambda m, args, result: result * 3)
    optimized = optimize_for_ane(model, (X,))
    with torch.no_grad():
        assert_same_result(model(Y), optimized(Y))


def test_parametrized_weights():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.ReLU())
    assert_same(model, optimize_for_ane(model, (X,)), Y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_dtypes(dtype):
    """Computed in float32 between inputs and outputs of the model's own dtype."""
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 8))
    wide = copy.deepcopy(model)
    model = model.to(dtype)
    wide.load_state_dict(model.state_dict())
    optimized = optimize_for_ane(model, (X.to(dtype),))
    have, want = optimized(Y.to(dtype)), wide(Y.to(dtype).float())
    assert have.dtype is dtype
    torch.testing.assert_close(have, want.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
    assert {t.dtype for t in optimized.program.state_dict.values()} == {torch.float32}


def test_integer_buffers_and_inputs():
    class Relative(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.register_buffer("index", torch.arange(16).reshape(4, 4) % 7)
            self.table = nn.Embedding(7, 3)
            self.register_buffer("shift", torch.tensor([1, 0], dtype=torch.int32))

        def forward(self, ids):
            return self.table((ids[:, None] + self.index[None, :2]) % 7) + self.shift[0]

    model = Relative()
    ids = torch.tensor([[1, 2, 3, 4]])
    assert_same(model, optimize_for_ane(model, (ids,)), ids + 1)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Linear(8, 8)
        self.register_buffer("total", torch.zeros(2, 5, 8))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.total += self.one(x)
        self.step += 1
        return self.total * self.step


def test_mutated_buffers():
    model = Counts()
    optimized = optimize_for_ane(model, (X,))
    assert model.step == 0 and not model.total.any()
    with torch.no_grad():
        for x in (X, Y, X):
            torch.testing.assert_close(optimized(x), model(x), rtol=1e-5, atol=1e-6)
    assert len(optimized.program.graph_signature.buffers_to_mutate) == 2


def test_optimized_model_has_a_state_of_its_own():
    """Running it does not write to the buffers of the user's model."""
    model = Counts()
    optimized = optimize_for_ane(model, (X,))
    optimized(X)
    assert model.step == 0 and not model.total.any()


# --- the result in the user's own pipeline ------------------------------------------------

AGAIN = ["tensor", "dict", "model_output", "nested", "input_itself", "none_and_constants"]


@pytest.mark.parametrize("name", AGAIN)
def test_can_be_exported_again(name):
    model = Net(RESULTS[name])
    optimized = optimize_for_ane(model, (X,))
    program = torch.export.export(optimized, (X,))
    assert_same(model, program, Y)


def test_can_be_exported_again_with_keywords_and_dynamic_shapes():
    tokens = torch.export.Dim("tokens", min=2, max=64)
    model = Net(whatever)
    dynamic = {"x": {1: tokens}, "y": {1: tokens}}
    optimized = optimize_for_ane(model, (X,), kwargs={"y": Y}, dynamic_shapes=dynamic)
    program = torch.export.export(optimized, (X,), {"y": Y}, dynamic_shapes=dynamic)
    for size in (5, 9):
        args, kwargs = (seeded(2, size, 8),), {"y": seeded(2, size, 8, seed=1)}
        assert_same(model, program, args, kwargs=kwargs)
        assert_same(model, optimized, args, kwargs=kwargs)


@pytest.mark.parametrize("name", ["tensor", "tuple", "dict"])
def test_can_be_traced_again(name):
    model = Net(RESULTS[name])
    optimized = optimize_for_ane(model, (X,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(optimized, (X,), strict=False)
    assert_same(model, traced, Y)


def test_can_be_copied_and_nested():
    model = Net(RESULTS["tensor"])
    optimized = optimize_for_ane(model, (X,))
    assert_same(model, copy.deepcopy(optimized), Y)
    outer = nn.Sequential(optimized, nn.ReLU())
    assert_same(nn.Sequential(model, nn.ReLU()), outer, Y)
    assert_same(nn.Sequential(model, nn.ReLU()), optimize_for_ane(outer, (X,)), Y)


def test_optimizing_twice_changes_nothing_more():
    model = Net(RESULTS["tensor"])
    once = optimize_for_ane(model, (X,))
    twice = optimize_for_ane(once.program)
    ops = [n.target for n in once.program.graph.nodes if n.op == "call_function"]
    assert [n.target for n in twice.program.graph.nodes if n.op == "call_function"] == ops
    assert_same(model, twice, Y)


# --- inputs that the model offers itself --------------------------------------------------


def offers(**attributes):
    model = Net(whatever)
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


@pytest.mark.parametrize(
    "model",
    [
        offers(example_input_array=X),
        offers(example_input_array=(X, Y)),
        offers(example_input_array={"x": X, "y": Y}),
        offers(dummy_inputs={"x": X, "unknown": Y}),
        offers(default_cfg={"input_size": (5, 8)}),
    ],
)
def test_inputs_are_inferred(model):
    assert isinstance(optimize_for_ane(model), OptimizedModel)


def test_inputs_are_inferred_from_a_huggingface_model():
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(dim=16, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=30)
    model = DistilBertModel(config).eval()
    optimized = optimize_for_ane(model)
    ids = model.dummy_inputs["input_ids"].flip(1)
    assert_same(model, optimized, (), kwargs={**model.dummy_inputs, "input_ids": ids})


def test_inputs_come_with_an_exported_program():
    model = Net(RESULTS["dict"])
    program = torch.export.export(model, (X,))
    optimized = optimize_for_ane(program)
    with torch.no_grad():
        assert_same_result(model(Y), optimized(Y))


@pytest.mark.parametrize(
    "model", [Net(whatever), offers(dummy_inputs={"unknown": X}), offers(example_input_array=None)]
)
def test_missing_inputs_are_asked_for(model):
    with pytest.raises(CaptureError, match="example inputs are needed") as caught:
        optimize_for_ane(model)
    assert "x" in caught.value.details["next step"]


@pytest.mark.parametrize("what", [lambda x: x, "model", None, Net])
def test_only_modules_and_programs_are_taken(what):
    with pytest.raises(CaptureError, match="only modules and exported programs"):
        optimize_for_ane(what, (X,))


def test_progress_is_told():
    steps = []
    optimized = optimize_for_ane(Net(RESULTS["tensor"]), (X,), progress=steps.append)
    assert steps == ["capture", *(p.name for p in optimized.pipeline)]
