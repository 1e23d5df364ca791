"""Arguments of calls by the names of their schemas."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import fx

from frontend.schema import arguments, bound, parameters, written

aten = torch.ops.aten


def call(target, *args, **kwargs) -> fx.Node:
    graph = fx.Graph()
    return graph.call_function(target, args, kwargs)


@pytest.mark.parametrize(
    "node",
    [
        call(aten.softmax.int, 0, -1),
        call(aten.softmax.int, 0, dim=-1),
        call(aten.softmax.int, self=0, dim=-1),
        call(aten.softmax.int, 0, -1, None),
    ],
)
def test_position_name_and_default_are_alike(node):
    assert arguments(node) == {"self": 0, "dim": -1, "dtype": None}


def test_keywords_are_not_taken_for_positions():
    assert bound(aten.add.Tensor, (1, 2), {}) == {"self": 1, "other": 2, "alpha": 1}
    assert bound(aten.add.Tensor, (1, 2), {"alpha": 3})["alpha"] == 3
    with pytest.raises(KeyError):
        bound(aten.add.Tensor, (1, 2), {})["beta"]


def test_defaults_are_the_schemas():
    given = arguments(call(aten.scaled_dot_product_attention.default, 0, 1, 2))
    assert given["dropout_p"] == 0.0 and given["is_causal"] is False and given["scale"] is None


def test_calls_without_a_schema_have_no_names():
    assert arguments(call(operator.getitem, 0, 1)) == {}


def test_written_arguments_follow_the_schema():
    x, y, out = torch.zeros(3).unbind()
    assert list(written(aten.add_.Tensor, (x, y), {})) == [x]
    assert [value is out for value in written(aten.add.out, (x, y), {"out": out})] == [True]
    assert list(written(aten.add.Tensor, (x, y), {})) == []


def test_parameters_are_in_order():
    assert [p.name for p in parameters(aten.clamp.default)] == ["self", "min", "max"]
