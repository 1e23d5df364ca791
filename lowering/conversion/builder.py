"""What a lowering function sees: a named MIL builder and its operator's bound arguments."""

from __future__ import annotations

from collections.abc import Callable
from types import NotImplementedType
from typing import Any, TypeAlias

import torch
from coremltools.converters.mil.mil import Builder, Var
from torch import fx

from frontend.schema import arguments, parameters

Operand: TypeAlias = Var | int | float
"""What may stand where an operator takes a tensor or a number."""

Lowered: TypeAlias = Var | tuple[Var | None, ...] | NotImplementedType | None
"""What a lowering gives back; ``NotImplemented`` leaves the call to coremltools' own."""

Lowering: TypeAlias = Callable[..., Lowered]
"""``(mb, *arguments in schema order, **keyword-only arguments)``."""

# Where a tensor lives and how it is strided has no meaning in MIL.
_PLACEMENT = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking"})


class MilBuilder:
    """coremltools' ``Builder``, naming each MIL op after the torch operator it is built for.

    Every builder function is reached as usual (``mb.add(x=..., y=...)``). Names default to
    ``<node>_<mil op>``, so that any op of the package can be traced to its origin.

    Attributes:
        node: the FX node being lowered.
        result: torch's fake result: a FakeTensor (shape, dtype), or a tuple of them.
    """

    def __init__(self, node: fx.Node) -> None:
        self.node = node
        # One tensor for most operators, a tuple for some: each lowering knows which.
        self.result: Any = node.meta.get("val")
        self._created: set[int] = set()

    def __getattr__(self, op_type: str) -> Any:
        build = getattr(Builder, op_type)
        if not callable(build):
            return build

        def named(**inputs: object) -> Any:
            inputs.setdefault("name", f"{self.node.name}_{op_type}")
            made = build(**inputs)
            self._created.update(id(var) for var in _as_tuple(made))
            return made

        return named

    def operand(self, position: int) -> torch.Tensor:
        """Torch's fake tensor of the argument at ``position``."""
        argument = self.node.args[position]
        assert isinstance(argument, fx.Node)
        tensor: torch.Tensor = argument.meta["val"]
        return tensor

    def give_name(self, result: object) -> None:
        """Name the op that computes ``result`` exactly as the FX node."""
        if isinstance(result, Var) and id(result) in self._created and result.op is not None:
            result.op.name = result.name = self.node.name


def bound_arguments(
    node: fx.Node, value_of: Callable[[fx.Node], Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword-only arguments of ``node`` after its operator's schema.

    Args:
        node: a ``call_function`` node with an ``OpOverload`` target.
        value_of: gives the value of an argument that is itself a node.

    Returns:
        Schema order, defaults filled in. Tensors and sizes of the program are MIL Vars;
        constants, lists, ``None`` and dtypes are Python values. Arguments about devices and
        memory formats are left out.
    """
    assert isinstance(node.target, torch._ops.OpOverload)
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    given = arguments(node)
    for argument in parameters(node.target):
        if argument.name in _PLACEMENT:
            continue
        value: Any = fx.map_arg(given[argument.name], value_of)
        if isinstance(value, list):
            value = list(value)  # torch's immutable lists fail some of coremltools' type checks
        if argument.kwarg_only:
            keywords[argument.name] = value
        else:
            positional.append(value)
    return positional, keywords


def _as_tuple(value: object) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)
