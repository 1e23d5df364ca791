import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.layout.placement import Placement, convert, isolated, plain, through_reshape


def realise(tensor, placement):
    """``tensor`` as it lies in memory under ``placement``."""
    order = [axis for group in placement.groups for axis in group]
    ones = [axis for axis in range(tensor.dim()) if axis not in order]
    moved = tensor.permute([*ones, *order])
    return moved.reshape([math.prod(tensor.shape[a] for a in g) for g in placement.groups])


def run(conversion, physical, tensor, end):
    if conversion.split is not None:
        physical = physical.reshape(
            [math.prod(tensor.shape[a] for a in g) for g in conversion.split]
        )
    if conversion.permutation is not None:
        physical = physical.permute(conversion.permutation)
    return physical.reshape([math.prod(tensor.shape[a] for a in g) for g in end.groups])


@st.composite
def tensors_and_forms(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    axes = [a for a, n in enumerate(sizes) if n != 1]

    def placement():
        order = draw(st.permutations(axes))
        groups = [[]]
        for axis in order:
            if draw(st.booleans()):
                groups.append([])
            groups[-1].append(axis)
        if draw(st.booleans()):
            groups.insert(draw(st.integers(0, len(groups))), [])
        return Placement(tuple(map(tuple, groups)))

    return torch.arange(math.prod(sizes)).reshape(sizes), placement(), placement()


@settings(max_examples=300, deadline=None)
@given(tensors_and_forms())
def test_conversion_moves_every_element_to_its_place(case):
    tensor, start, end = case
    steps = convert(start, end)
    assert torch.equal(run(steps, realise(tensor, start), tensor, end), realise(tensor, end))


@settings(max_examples=200, deadline=None)
@given(tensors_and_forms(), st.randoms(use_true_random=False))
def test_reshape_carries_a_form(case, random):
    tensor, placement, _ = case
    total = tensor.numel()
    new = []
    while total > 1:
        divisor = random.choice([d for d in range(2, total + 1) if total % d == 0])
        new.append(divisor)
        total //= divisor
    new.insert(random.randint(0, len(new)), 1)
    carried = through_reshape(placement, list(tensor.shape), new)
    if carried is not None:
        before, after = realise(tensor, placement), realise(tensor.reshape(new), carried.gives)
        assert torch.equal(before.reshape(-1), after.reshape(-1))


def test_heads_split_off_the_channels_for_free():
    placement = Placement(((0,), (2,), (), (1,)))  # (B, C, 1, S) of (B, S, C)
    heads = through_reshape(placement, (2, 5, 8), (2, 5, 4, 2)).gives
    assert heads == Placement(((0,), (2, 3), (), (1,)))
    assert isolated(heads, [3], 5) == Placement(((0,), (2,), (3,), (1,)))


def test_keys_are_transposed_without_a_reshape():
    heads = Placement(((), (2, 3), (), (1,)))  # (B, S, h, d) as (B, h*d, 1, S)
    rows = Placement(((), (1,), (), (2, 3)))
    assert convert(heads, rows).split is None
    assert convert(heads, rows).permutation == (0, 3, 2, 1)


def test_symbolic_sizes_match_by_equality():
    assert through_reshape(plain(("s", 8)), ("s", 8), ("s", 2, 4)).gives == Placement(
        ((0,), (1, 2))
    )
    assert through_reshape(plain(("s", 8)), ("s", 8), (8, "s")) is None
