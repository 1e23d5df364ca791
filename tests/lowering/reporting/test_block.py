"""Which module is shown, and what of it is drawn once."""

from __future__ import annotations

import random

import pytest

from lowering.reporting.block import repeated_module
from lowering.reporting.op_graph import Item, merged


def modules(**signs):
    """Operators of modules: ``layer_0="abc"`` has three, of different kinds."""
    return [(path.replace("_", "."), sign) for path, text in signs.items() for sign in text]


def test_the_repeated_module_is_found():
    rows = [("embed", "gather")]
    rows += [(f"layer.{i}.fc", sign) for i in range(3) for sign in ("conv", "gelu", "conv")]
    assert repeated_module(rows) == ("layer.0", 3, 3)


def test_modules_that_differ_are_not_alike():
    rows = modules(layer_0="abc", layer_1="xyz", layer_2="abc", layer_3="bca")
    assert repeated_module(rows) == ("layer.0", 3, 4)


def test_of_modules_that_all_differ_one_with_much_in_common_is_shown():
    assert repeated_module(modules(layer_0="abcd", layer_1="abce")) == ("layer.1", 1, 2)
    assert repeated_module(modules(layer_0="abcd", layer_1="wxyd")) is None


def test_of_nested_families_the_one_with_most_operators_is_shown():
    rows = modules(a_0_b_0="rst", a_0_b_1="rst", **{f"a_1_b_{i}": "xyz" for i in range(9)})
    assert repeated_module(rows) == ("a.1.b.0", 9, 9)


def test_of_equal_families_the_outermost_is_shown():
    rows = modules(**{f"stage_{s}_block_0": "abc" for s in range(3)})
    assert repeated_module(rows) == ("stage.0", 3, 3)


@pytest.mark.parametrize(
    "rows",
    [[], modules(a_b="abc"), modules(layer_0="abc"), modules(**{"0": "a", "1": "a", "2": "b"})],
)
def test_nothing_repeats(rows):
    assert repeated_module(rows) is None


def heads(count, odd=False):
    """Split, one chain for each head, and a concat."""
    items = [Item("split", "split", (1, 4), ("x",))]
    for i in range(count):
        shape = (1, 5) if odd and i == 0 else (1, 4)
        items.append(Item(f"score{i}", "einsum", shape, ("split", "mask")))
        items.append(Item(f"soft{i}", "softmax", (1, 4), (f"score{i}",)))
    items.append(Item("cat", "concat", (1, 8), tuple(f"soft{i}" for i in range(count))))
    return items


def labels(graph):
    return [(v.label, v.count) for v in graph.vertices if not v.is_input]


def test_heads_are_drawn_once():
    graph = merged(heads(12))
    assert labels(graph) == [("split", 1), ("einsum", 12), ("softmax", 12), ("concat", 1)]
    assert graph.ops == 26
    assert sum(v.is_input for v in graph.vertices) == 2  # x and the mask stay apart


def test_a_head_of_another_shape_is_drawn_apart():
    found = labels(merged(heads(4, odd=True)))
    assert sorted(found) == sorted(
        [("split", 1), ("einsum", 1), ("einsum", 3), ("softmax", 1), ("softmax", 3), ("concat", 1)]
    )


def test_equal_operators_with_other_readers_stay_apart():
    items = [
        Item("q", "conv", (1,), ("x",)),
        Item("v", "conv", (1,), ("x",)),
        Item("s", "softmax", (1,), ("q",)),
        Item("o", "mul", (1,), ("s", "v")),
    ]
    assert labels(merged(items)) == [("conv", 1), ("conv", 1), ("softmax", 1), ("mul", 1)]


def test_devices_and_passes_of_merged_operators():
    items = [
        Item("a", "add", (1,), ("x",), "ane", ("split_attention",)),
        Item("b", "add", (1,), ("x",), "cpu", ("assign_layout",)),
    ]
    (vertex,) = [v for v in merged(items).vertices if not v.is_input]
    assert (vertex.count, vertex.device) == (2, "mixed")
    assert vertex.passes == ("split_attention", "assign_layout")


@pytest.mark.parametrize("seed", range(20))
def test_merging_keeps_the_flow(seed):
    draw = random.Random(seed)
    items = []
    for i in range(40):
        reads = tuple({f"n{draw.randrange(i)}" for _ in range(draw.randint(1, 3))} if i else {"x"})
        items.append(Item(f"n{i}", draw.choice("ab"), (draw.choice((1, 2)),), reads))
    graph = merged(items)
    assert all(start < end for start, end in graph.edges)
    assert sum(v.count for v in graph.vertices if not v.is_input) == graph.ops == 40
    for index, vertex in enumerate(graph.vertices):
        if vertex.is_input:
            continue
        like = [i for i in items if (i.label, i.shape) == (vertex.label, vertex.shape)]
        feeds = {graph.vertices[s].label for s, e in graph.edges if e == index}
        # Some operator like it is fed by exactly these labels.
        by_key = {item.key: item.label for item in items}
        assert any({by_key.get(r, "in") for r in i.reads} == feeds for i in like)
