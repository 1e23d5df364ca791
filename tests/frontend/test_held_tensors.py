"""Tensors that a model holds in objects, lists and closures."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from frontend.capturing import capture
from frontend.object_tree import held_tensors
from frontend.program import runnable

PLACE = torch.tensor([2])
_GLOBAL = torch.zeros(2, 3, 4)


class Slots:
    __slots__ = ("keys",)


class Holding(nn.Module):
    """Keeps ``cache`` (2, 3, 4) registered, and views of it wherever ``hold`` puts them."""

    def __init__(self, hold, registered=True):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        cache = torch.zeros(2, 3, 4)
        if registered:
            self.register_buffer("cache", cache)
        self.get = hold(self, cache)

    def forward(self, x):
        keys, values = self.get()
        keys.index_copy_(0, PLACE, self.linear(x))
        values[1:] += x
        return self.linear(keys) * values


def in_object(model, cache):
    model.holder = SimpleNamespace(keys=cache[0], values=cache[1])
    return lambda: (model.holder.keys, model.holder.values)


def in_list_of_tuples(model, cache):
    model.layers = [(cache[0], cache[1])]
    return lambda: model.layers[0]


def in_closure(model, cache):
    return lambda: (cache[0], cache[1])


def in_slots(model, cache):
    slots = Slots()
    slots.keys = cache
    return lambda: (slots.keys[0], slots.keys[1])


def as_other_views(model, cache):
    model.views = {"whole": cache.view(6, 4), "turned": cache.transpose(1, 2)[1]}
    return lambda: (model.views["whole"][:3], model.views["turned"].mT)


def check_two_calls(model):
    program = capture(model, (torch.randn(1, 4),))
    assert program.graph_signature.buffers_to_mutate
    module, weights = runnable(program), list(model.parameters())
    for parameter in module.parameters():
        assert any(parameter is weight for weight in weights)
    for x in (torch.randn(1, 4), torch.randn(1, 4)):
        (found,) = module(x)
        torch.testing.assert_close(found, model(x))
    return program


@pytest.mark.parametrize(
    "hold", [in_object, in_list_of_tuples, in_closure, in_slots, as_other_views]
)
def test_tensors_of_plain_objects_are_the_buffers_that_they_are(hold):
    program = check_two_calls(Holding(hold))
    assert set(program.graph_signature.buffers_to_mutate.values()) == {"cache"}
    assert len(program.constants) == 1  # the place


@pytest.mark.parametrize("hold", [in_object, in_list_of_tuples, in_closure])
def test_tensors_that_are_no_buffer_become_one_where_they_are_written(hold):
    model = Holding(hold, registered=False)
    program = check_two_calls(model)
    assert len(set(program.graph_signature.buffers_to_mutate.values())) == 1
    assert list(model._buffers) == []


def test_a_tensor_attribute_that_is_written_keeps_its_name():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.keys = torch.ones(2, 4)

        def forward(self, x):
            self.keys.mul_(x)
            return self.keys + 1

    model, x = Model(), torch.randn(2, 4)
    program = capture(model, (x,))
    assert list(program.graph_signature.buffers_to_mutate.values()) == ["keys"]
    assert vars(model)["keys"].equal(torch.ones(2, 4))
    torch.testing.assert_close(runnable(program)(x)[0], x + 1)


def test_a_global_tensor_that_is_written_is_state_too():
    class Model(nn.Module):
        def forward(self, x):
            _GLOBAL.add_(x)
            return _GLOBAL * 2

    program = capture(Model(), (torch.ones(4),))
    module = runnable(program)
    assert [float(module(torch.ones(4))[0].mean()) for _ in range(2)] == [2.0, 4.0]
    assert not _GLOBAL.any()


def test_a_branch_may_write_a_held_tensor():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(2, 4))
            self.holder = SimpleNamespace(total=self.total)

        def forward(self, x):
            if x.sum() > 0:
                self.holder.total.add_(x)
            return self.holder.total * 2

    model = Model()
    module = runnable(capture(model, (torch.ones(2, 4),)))
    for x in (torch.ones(2, 4), -torch.ones(2, 4), torch.ones(2, 4)):
        torch.testing.assert_close(module(x)[0], model(x))


def test_objects_are_bound_to_what_they_were():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.holder, self.part, self.seen = SimpleNamespace(keys=None), nn.Identity(), {}

        def forward(self, x):
            self.holder.keys = x * 2
            self.part.last, self.seen["x"] = self.holder.keys, x
            return self.holder.keys + 1

    model = Model()
    capture(model, (torch.ones(2),))
    assert model.holder.keys is None and model.seen == {}
    assert "last" not in vars(model.part)


def test_weights_of_plain_objects_are_shared():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.tied = SimpleNamespace(weight=self.linear.weight, shift=torch.randn(4))

        def forward(self, x):
            return self.linear(x) @ self.tied.weight.T + self.tied.shift

    model, x = Model(), torch.randn(2, 4)
    program = capture(model, (x,))
    assert len(program.state_dict) == 2 and len(program.constants) == 1
    torch.testing.assert_close(program.module()(x)[0], model(x))


def test_paths_of_held_tensors():
    model = Holding(in_object)
    paths = [path for path, _ in held_tensors(model)]
    assert {"linear.weight", "cache", "holder.keys", "holder.values"} <= set(paths)


class Overwritten(nn.Module):
    """States of each dtype that a call writes, whole, before it reads them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("mask", torch.zeros(2, 4, dtype=torch.bool))
        self.register_buffer("last", torch.zeros(2, 4))

    def forward(self, x, place):
        self.count.copy_(place[0])
        self.mask.copy_(x)
        self.last.zero_().add_(x)
        return x + self.count + self.mask + self.last


def test_whole_numbers_that_are_overwritten_before_they_are_read_are_no_state():
    model, args = Overwritten(), (torch.tensor([[0.0, 0.3, -2.0, 1.0]] * 2), torch.tensor([3]))
    program = capture(model, args)
    # Another function of the package may read what this one leaves in a state of numbers.
    assert list(program.graph_signature.buffers_to_mutate.values()) == ["last"]
    torch.testing.assert_close(program.module()(*args)[0], model(*args))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float16])
def test_a_whole_write_casts_and_broadcasts(dtype):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kept", torch.zeros(2, 4, dtype=dtype))

        def forward(self, x):
            before = self.kept.float()
            self.kept.copy_(x * 2.7)
            return before + self.kept, self.kept

    model, x = Model(), torch.tensor([0.0, 0.3, -2.0, 1.4])
    module = runnable(capture(model, (x,)))
    for _ in range(2):
        torch.testing.assert_close(module(x)[0], model(x)[0], rtol=1e-3, atol=1e-3)
