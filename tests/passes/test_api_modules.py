"""optimize_for_ane and the user's module: left alone, any dtype and state, exported again."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frontend.errors import CaptureError
from passes import OptimizedModel, optimize_for_ane
from tests.passes.test_api import (
    RESULTS,
    Net,
    X,
    Y,
    assert_same_result,
    snapshot,
    whatever,
)
from tests.passes.util import assert_same, seeded


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


def test_a_top_level_module_may_be_parametrized():
    model = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3)).eval()
    x = seeded(1, 4, 10)
    with torch.no_grad():
        torch.testing.assert_close(optimize_for_ane(model, x)(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "layer", [nn.ReLU(True), nn.Hardswish(True), nn.LeakyReLU(0.2, inplace=True)], ids=str
)
def test_a_first_layer_in_place(layer: nn.Module) -> None:
    """Its input is called ``input``, which a copy of a graph renames."""
    model, x = nn.Sequential(layer, nn.Linear(4, 4)).eval(), torch.randn(2, 4)
    given, want = x.clone(), x.clone()
    expected = model(want)
    optimized = optimize_for_ane(model, (x.clone(),))
    torch.testing.assert_close(optimized(given), expected)
    torch.testing.assert_close(given, want)
    assert optimized.program.graph_signature.user_inputs == ("input",)
