"""What a model does first with a picture: where wrong preprocessing shows whatever comes after."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from lowering.reference import LoadedModel
from lowering.verification import fx_values, package_values
from lowering.verification.original import Original

aten = torch.ops.aten
# What sums over channels or places; before it each number is still one pixel's.
_PRODUCTS = frozenset(
    {
        aten.addmm.default,
        aten.bmm.default,
        aten.conv1d.default,
        aten.conv2d.default,
        aten.conv3d.default,
        aten.convolution.default,
        aten.einsum.default,
        aten.linear.default,
        aten.matmul.default,
        aten.mm.default,
    }
)


class FirstProducts:
    """For each input that is a picture, the first product of it that program and package share.

    A later layer may make up for wrong numbers (a norm), or hardly see them (a softmax over many
    classes); the first product of the pixels does neither.

    Args:
        model: the package.
        program: what it was made from.
        names: the inputs that are pictures.
    """

    def __init__(self, model: LoadedModel, program: ExportedProgram, names: list[str]) -> None:
        pairs = package_values.matches(model, program) if names else {}
        self._program = program
        self._values: dict[str, tuple[fx.Node, str]] = {}
        for name in names:
            node = _first(program, name, pairs)
            if node is not None:
                self._values[name] = node, pairs[node.name]

    def compared(
        self, step: Original, values: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor | None, Tensor]]:
        """What the package has there and what it should have, by the input's name.

        Args:
            step: the original with its inputs.
            values: every value of the package's call, by name.
        """
        wanted = {node.name: name for name, (node, _) in self._values.items()}
        expected: dict[str, Tensor] = {}

        def keep(node: fx.Node, value: object) -> object:
            if node.name in wanted and isinstance(value, Tensor):
                expected[wanted[node.name]] = value
            return value

        if wanted:
            fx_values.run(self._program, step.leaves, visit=keep, buffers=step.buffers)
        return {name: (values.get(self._values[name][1]), want) for name, want in expected.items()}


def _first(program: ExportedProgram, name: str, pairs: Mapping[str, str]) -> fx.Node | None:
    """The first node from a product of input ``name`` on that has a pair in the package."""
    after: set[fx.Node] = set()
    mixed: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name == name:
            after.add(node)
        elif node.op == "call_function" and after.intersection(node.all_input_nodes):
            after.add(node)
            if node.target in _PRODUCTS or mixed.intersection(node.all_input_nodes):
                mixed.add(node)
                if node.name in pairs:
                    return node
    return None
