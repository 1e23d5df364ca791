"""Sizes that follow from constants are numbers in the captured program."""

import pytest
import torch

from tests.frontend.branch_harness import assert_same, export, function_module, random_cases

CASES = random_cases((3, 4))
MASK = torch.tensor([[True, False, False, True], [False] * 4, [True] * 4])

MODELS = {
    "one_count": lambda self, x: x.repeat_interleave(torch.tensor([3]), dim=1),
    "count_without_axes": lambda self, x: x.repeat_interleave(torch.tensor(2)),
    "counts": lambda self, x: torch.repeat_interleave(x, torch.tensor([1, 0, 2]), 0),
    "computed_counts": lambda self, x: x.repeat_interleave(torch.arange(4), 1),
    "counts_alone": lambda self, x: x[:, torch.repeat_interleave(torch.tensor([0, 2, 1]))],
    "interpolate": lambda self, x: torch.nn.functional.interpolate(
        x[None],
        size=(torch.ones(2, 5).sum(1).long()[0],),  # type: ignore[arg-type]
    ),
    "nonzero": lambda self, x: x[0][MASK[0].nonzero()[:, 0]],
    "nonzero_as_tuple": lambda self, x: x[MASK.nonzero(as_tuple=True)],
    "mask": lambda self, x: x[MASK] * 2,
    "mask_of_one_axis": lambda self, x: x[:, MASK[0]],
    "list_of_flags": lambda self, x: x[[True, False, True]],
    "two_lists_of_flags": lambda self, x: x[[True, False, True], [True, False, False, True]],
}


@pytest.mark.parametrize("name", MODELS)
def test_size_is_a_number(name):
    program = assert_same(function_module(MODELS[name]), CASES)
    assert not program.range_constraints
    sizes = [
        size
        for node in program.graph.nodes
        if isinstance(node.meta.get("val"), torch.Tensor)
        for size in node.meta["val"].shape
    ]
    assert all(isinstance(size, int) for size in sizes)


def test_a_size_that_depends_on_data_stays_open():
    program = export(function_module(lambda self, x: x[x > 0]), *CASES[0])
    assert program.range_constraints


def test_indexing_is_torchs_own_afterwards():
    assert "known_sizes" not in torch.Tensor.__getitem__.__qualname__
    assert not hasattr(torch.Tensor.nonzero, "__wrapped__")
