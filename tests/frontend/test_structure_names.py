"""Outputs whose names cannot be the model's own."""

import warnings

import pytest
import torch
from torch import nn

from frontend.capturing import RenamedWarning, capture


class Returns(nn.Module):
    def __init__(self, keys):
        super().__init__()
        self.keys = keys

    def forward(self, x):
        return {key: x * n for n, key in enumerate(self.keys, 2)}


@pytest.mark.parametrize(
    ("key", "name"),
    [("1st", "output_1st"), ("a b", "a_b"), ("self", "self_out"), ("for", "for_out"),
     ("x", "x_out")],
)  # fmt: skip
def test_other_names_are_said(key, name):
    with pytest.warns(RenamedWarning, match=f"{key!r} is {name!r}"):
        program = capture(Returns(["kept", key]), (torch.ones(2),))
    assert list(program.graph_signature.user_outputs) == ["kept", name]


@pytest.mark.parametrize("keys", [["logits", "hidden_states"], [0, 1]])
def test_names_that_stay_and_positions_are_not(keys):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RenamedWarning)
        capture(Returns(keys), (torch.ones(2),))
