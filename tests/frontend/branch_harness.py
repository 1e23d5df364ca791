"""Exports a module through the branch explorer alone and compares it with the module itself."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from frontend.branches import run_all_paths


def export(module: nn.Module, *inputs, dynamic_shapes=None, **kw) -> ExportedProgram:
    """``module`` as a functional program, all its paths in one graph."""
    traced = copy.copy(module)
    for table in ("_parameters", "_buffers", "_modules"):
        traced.__dict__[table] = copy.copy(traced.__dict__[table])
    original = traced.forward

    def forward(*args):
        def run() -> tuple[list[Any], Any]:
            return pytree.tree_flatten(original(*args))

        found: Any = run_all_paths(run, traced, inputs=pytree.tree_leaves(args), **kw)
        return pytree.tree_unflatten(*found)

    traced.__dict__["forward"] = forward
    program = torch.export.export(traced, inputs, strict=False, dynamic_shapes=dynamic_shapes)
    return program.run_decompositions({})


def assert_same(module: nn.Module, cases: Iterable[tuple[Any, ...]], **kw) -> ExportedProgram:
    """Exports on the first case and compares on all: results, buffers and inputs written.

    Results are bit for bit the same, since both sides run the same kernels.
    """
    cases = list(cases)
    initial = copy.deepcopy(module.state_dict())
    program = export(copy.deepcopy(module), *copy.deepcopy(cases[0]), **kw)
    assert not [n for n in program.graph.nodes if n.target is torch.ops.aten.item.default]
    packaged = program.module()
    for case in cases:
        module.load_state_dict(initial)
        packaged.load_state_dict(initial, strict=False)
        ours, theirs = copy.deepcopy(case), copy.deepcopy(case)
        expected, found = module(*theirs), packaged(*ours)
        compare(found, expected)
        compare(ours, theirs)
        buffers = dict(packaged.named_buffers())
        for name, value in module.named_buffers():
            if name in buffers:
                compare(buffers[name], value)
    return program


def compare(found, expected) -> None:
    """Asserts equality of nests of tensors: dtypes, shapes and bits, NaN equal to NaN."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def count(program: ExportedProgram, target) -> int:
    return sum(node.target is target for node in program.graph.nodes)


def random_cases(*shapes: tuple[int, ...], n: int = 24) -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.randn(s, generator=generator) for s in shapes) for _ in range(n)]


def function_module(function, **buffers: torch.Tensor) -> nn.Module:
    """A module whose forward is ``function(self, *inputs)``, with ``buffers``."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in buffers.items():
                self.register_buffer(name, value)

        def forward(self, *args):
            return function(self, *args)

    with warnings.catch_warnings():
        return Model()
