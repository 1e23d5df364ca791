"""dynamic_shapes is completed, checked, and fitted to the example inputs."""

import warnings

import pytest
import torch
from torch import nn
from torch.export import Dim

from frontend.capturing import capture
from frontend.dynamic_shapes import DIM_SYMBOLS
from frontend.errors import DynamicShapesError, SizeError
from frontend.size_guards import NarrowedSizeWarning

X = torch.randn(3, 5)
BATCH, TOKENS = Dim("batch", min=1, max=4), Dim("tokens", min=2, max=16)


class Twice(nn.Module):
    def forward(self, x):
        return x * 2


class Sum(nn.Module):
    def forward(self, x, y):
        return x.mean(0) + y.mean(0)


class Nested(nn.Module):
    def forward(self, parts, **others):
        return parts["a"].sum() + parts["b"][0].sum() + others["bias"].sum()


class Doubled(nn.Module):
    def forward(self, x, y):
        return torch.cat([x, x]) + y


class FixedRows(nn.Module):
    def forward(self, x):
        return x.reshape(3, -1)


def shapes(program):
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    return [[str(size) for size in nodes[name].meta["val"].shape] for name in names]


def test_entries_may_be_left_out():
    program = capture(Sum(), (X, X + 1), dynamic_shapes={"x": {0: BATCH}})
    x, y = shapes(program)
    assert not x[0].isdigit() and x[1] == "5" and y == ["3", "5"]
    assert program.graph_module.meta[DIM_SYMBOLS] == {"batch": x[0]}


def test_nested_entries_and_keywords():
    inputs = ({"a": X + 1, "b": [X + 2]},)
    given = {"parts": {"b": [{-1: TOKENS}]}, "bias": {0: BATCH}}
    program = capture(Nested(), inputs, kwargs={"bias": X}, dynamic_shapes=given)
    found = shapes(program)
    assert [[size.isdigit() for size in row] for row in found] == [
        [True, True],
        [True, False],
        [False, True],
    ]


def test_an_example_of_one_element_is_enough():
    program = capture(
        Doubled(), (X[:1], X[:2]), dynamic_shapes={"x": {0: BATCH}, "y": {0: 2 * BATCH}}
    )
    x, y = shapes(program)
    assert y[0] == f"2*{x[0]}"
    (bounds,) = (v for k, v in program.range_constraints.items() if str(k) == x[0])
    assert (bounds.lower, bounds.upper) == (1, 4)
    for rows in (1, 3):
        pair = (torch.randn(rows, 5), torch.randn(2 * rows, 5))
        torch.testing.assert_close(program.module()(*pair)[0], Doubled()(*pair))


def test_the_callers_inputs_stay_as_they_are():
    one = X[:1].clone()
    capture(Twice(), (one,), dynamic_shapes={"x": {0: BATCH}})
    assert one.shape == (1, 5) and torch.equal(one, X[:1])


@pytest.mark.parametrize(
    ("model", "args", "given", "text"),
    [
        (Twice(), (X,), {"z": {0: BATCH}}, "names arguments that the call does not have"),
        (Twice(), (X,), ({0: BATCH}, {0: BATCH}), "more entries than the call has arguments"),
        (Twice(), (X,), {"x": {5: BATCH}}, "axis 5"),
        (Twice(), (X,), {"x": (BATCH,)}, "2 sizes, one for each axis"),
        (Twice(), (X,), {"x": {0: "batch"}}, "'batch'"),
        (Twice(), (X,), {"x": BATCH}, "a dictionary from axis to size"),
        (Twice(), (X,), {"x": {1: Dim("tokens", min=6, max=9)}}, "6 to 9"),
        (Nested(), ({"a": X, "b": [X]},), {"parts": {"c": None}}, "entries for a, b"),
        (Nested(), ({"a": X, "b": [X]},), {"parts": {"b": []}}, "1 entries"),
        (Nested(), ({"a": X, "b": [X]},), {"parts": {"b": 3}}, "nested like the list"),
    ],
)
def test_what_does_not_fit_is_named(model, args, given, text):
    keywords = {"bias": X} if isinstance(model, Nested) else None
    with pytest.raises(DynamicShapesError) as caught:
        capture(model, args, kwargs=keywords, dynamic_shapes=given)
    assert text in str(caught.value) and caught.value.details["next step"]


def test_a_size_that_the_model_fixes():
    with pytest.raises(SizeError) as caught:
        capture(FixedRows(), (X,), dynamic_shapes={"x": {0: BATCH, 1: TOKENS}})
    assert "batch" in str(caught.value) and "batch = 3" in caught.value.details["next step"]
    assert "draft_export" not in str(caught.value)


def test_a_relation_that_was_not_declared():
    given = {"x": {0: BATCH}, "y": {0: Dim("rows", min=2, max=8)}}
    with pytest.raises(SizeError, match=r"rows = 2\*batch"):
        capture(Doubled(), (X, torch.randn(6, 5)), dynamic_shapes=given)


def test_a_range_that_shrinks_is_said():
    # One tensor for two inputs, of which one has no entry: torch would drop the batch of 1.
    with pytest.raises(SizeError, match="'batch' cannot take all the sizes") as caught:
        capture(Sum(), (X, X), dynamic_shapes={"x": {0: BATCH}})
    assert "2 to 4" in caught.value.details["found"]


@pytest.mark.parametrize("least", [0, 1])
def test_a_hint_that_starts_below_two_is_said(least):
    hint = Dim.DYNAMIC(min=least, max=8)
    with pytest.warns(
        NarrowedSizeWarning, match=f"axis 0 of x takes sizes from 2 to 8, .*min={least}"
    ):
        program = capture(Sum(), (X, X.clone()), dynamic_shapes={"x": {0: hint}, "y": {0: hint}})
    assert all(span.lower == 2 for span in program.range_constraints.values())


def test_ranges_that_hold_are_not_warned_of():
    hint, size = Dim.DYNAMIC(min=2, max=8), Dim("rows", min=1, max=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NarrowedSizeWarning)
        for entry in (hint, size):
            given = {"x": {0: entry}, "y": {0: entry}}
            program = capture(Sum(), (X, X.clone()), dynamic_shapes=given)
            assert {span.lower for span in program.range_constraints.values()} == {entry.min}
