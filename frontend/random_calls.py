"""Which calls draw random numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


def draws_random(node: fx.Node) -> bool:
    """True for a call whose result depends on the state of a random generator.

    torch tags operators, not calls: attention with a dropout probability of zero draws nothing,
    though the operator may.
    """
    tags = getattr(node.target, "tags", ())
    if node.op != "call_function" or torch.Tag.nondeterministic_seeded not in tags:
        return False
    probability = _argument(node, "dropout_p")
    return not (isinstance(probability, int | float) and probability == 0)


def _argument(node: fx.Node, name: str) -> Any:
    """What a call passes for ``name``, or its default; ``None`` if there is no such parameter."""
    schema = getattr(node.target, "_schema", None)
    for position, parameter in enumerate(schema.arguments if schema is not None else ()):
        if parameter.name == name:
            if position < len(node.args):
                return node.args[position]
            return node.kwargs.get(name, parameter.default_value)
    return None
