"""Weights with which no model computes anything: found before they are written down."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, fx
from torch.export import ExportedProgram

# So many weights are named.
_NAMED = 3
# An infinity in a factor of these makes a whole row or channel infinite or NaN. Elsewhere, as in
# what is added, it is how a model leaves out a token or a class.
_PRODUCTS = frozenset(
    f"aten.{name}"
    for name in (
        *("conv1d", "conv2d", "conv3d", "convolution", "linear", "matmul", "mm", "bmm"),
        *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "addmm", "baddbmm"),
    )
)
# What is added to their product stands first.
_ADDED_FIRST = frozenset({"aten.addmm", "aten.baddbmm"})


def weight_problems(program: ExportedProgram) -> list[str]:
    """NaN in what a program reads, and infinities in what it multiplies by, as sentences."""
    nan, infinite = [], []
    signature = program.graph_signature
    # A state may start as NaN, to be told from what was written.
    states = set(signature.buffers_to_mutate.values())
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for spec in signature.input_specs:
        target = spec.target or ""
        value = program.state_dict.get(target, program.constants.get(target))
        node = nodes.get(spec.arg.name)
        if node is None or target in states or not isinstance(value, Tensor):
            continue
        if not value.is_floating_point():
            continue
        if bool(value.isnan().any()):
            nan.append(target)
        elif _is_factor(node) and bool(value.isinf().any()):
            infinite.append(target)
    found = (("NaN", nan), ("an infinity", infinite))
    return [f"weights: {what} in {_listed(names)}" for what, names in found if names]


def _is_factor(node: fx.Node) -> bool:
    return any(node in _factors(user) for user in node.users)


def _factors(node: fx.Node) -> Iterable[object]:
    """The two operands of a product."""
    kind = str(getattr(node.target, "overloadpacket", ""))
    if kind not in _PRODUCTS:
        return ()
    return node.args[1:3] if kind in _ADDED_FIRST else node.args[:2]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
