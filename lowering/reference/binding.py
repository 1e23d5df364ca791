"""Matches an op's arguments in a program with the parameters of its semantics function.

A semantics function says by its annotations how it wants each argument: ``Tensor`` as it is
carried, ``Ints``, ``int``, ``float``, ``bool``, ``str`` ... as Python values, ``list[Tensor]`` for
variadic arguments. Constants are converted once, when a program is loaded; an argument that is
computed while the program runs (a dynamic ``shape``, say) is converted on each call.
"""

from __future__ import annotations

import inspect
import types
import typing
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias

from torch import Tensor

from lowering.package.kinds import damaged, operands_fit

Semantics: TypeAlias = Callable[..., Any]
Convert: TypeAlias = Callable[[Any], Any]

# A parameter of this name gets a number made of the op's name.
SALT = "salt"

# Annotations of semantics functions.
Ints: TypeAlias = tuple[int, ...]
Bools: TypeAlias = tuple[bool, ...]


@dataclass(frozen=True)
class Slot:
    """Place of a computed value in the register file."""

    index: int

    def read(self, registers: Sequence[Any]) -> object:
        """The value there."""
        return registers[self.index]


@dataclass(frozen=True)
class Constant:
    """A value known when the program is loaded."""

    value: Any

    def read(self, registers: Sequence[Any]) -> object:
        """The value itself."""
        return self.value


Reference: TypeAlias = Slot | Constant


def _scalar(kind: type) -> Convert:
    def convert(value: Any) -> Any:
        if isinstance(value, list):
            value = value[0]
        return kind(value.item() if isinstance(value, Tensor) else value)

    return convert


def _sequence(kind: type) -> Convert:
    def convert(value: Any) -> tuple[Any, ...]:
        if isinstance(value, Tensor):
            return tuple(kind(item) for item in value.reshape(-1).tolist())
        items = (item.item() if isinstance(item, Tensor) else item for item in value)
        return tuple(kind(item) for item in items)

    return convert


_CONVERTERS: dict[Any, Convert | None] = {
    Tensor: None,
    list[Tensor]: None,
    list[Any]: None,
    Any: None,
    int: _scalar(int),
    float: _scalar(float),
    bool: _scalar(bool),
    str: _scalar(str),
    Ints: _sequence(int),
    Bools: _sequence(bool),
}


@dataclass(frozen=True)
class Parameter:
    """How one parameter of a semantics function wants its argument."""

    convert: Convert | None
    variadic: bool
    required: bool


@cache
def parameters(function: Semantics) -> Mapping[str, Parameter]:
    """The parameters of a semantics function by name."""
    hints = typing.get_type_hints(function)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        alternatives = [item for item in typing.get_args(hint) if item is not type(None)]
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            (hint,) = alternatives
        found[name] = Parameter(
            convert=_CONVERTERS[hint],
            variadic=typing.get_origin(hint) is list,
            required=parameter.default is inspect.Parameter.empty,
        )
    return found


@dataclass(frozen=True)
class Dynamic:
    """An argument that is computed while the program runs."""

    name: str
    references: tuple[Reference, ...]
    convert: Convert | None
    single: bool

    def read(self, registers: Sequence[Any]) -> object:
        """The argument, as the semantics function wants it."""
        values = [item.read(registers) for item in self.references]
        value = values[0] if self.single else values
        return self.convert(value) if self.convert else value


def _plain(item: Dynamic) -> bool:
    return item.single and item.convert is None and isinstance(item.references[0], Slot)


@dataclass(frozen=True)
class BoundCall:
    """A semantics function with its constant arguments in place."""

    function: Semantics
    constants: dict[str, Any]
    dynamic: tuple[Dynamic, ...]

    @cached_property
    def direct(self) -> tuple[tuple[str, int], ...]:
        """Parameters that take a register as it is: most, and read fastest so."""
        slots = ((item.name, item.references[0]) for item in self.dynamic if _plain(item))
        return tuple((name, slot.index) for name, slot in slots if isinstance(slot, Slot))

    @cached_property
    def indirect(self) -> tuple[Dynamic, ...]:
        """The others: lists, and what is converted."""
        return tuple(item for item in self.dynamic if not _plain(item))

    def slots(self) -> set[int]:
        """Registers that the call reads."""
        references = (reference for item in self.dynamic for reference in item.references)
        return {reference.index for reference in references if isinstance(reference, Slot)}


def bind(
    function: Semantics, arguments: Mapping[str, Sequence[Reference]], op_type: str, name: str
) -> BoundCall:
    """``function`` bound to an op's ``arguments``.

    Raises:
        PackageError: an argument is missing, or the function does not know it.
    """
    known = parameters(function)
    unknown = sorted(set(arguments) - set(known))
    missing = sorted(key for key, item in known.items() if item.required and key not in arguments)
    if unknown or missing:
        wrong = [f"missing {', '.join(missing)}"] if missing else []
        wrong += [f"unknown {', '.join(unknown)}"] if unknown else []
        raise damaged(f"arguments {', '.join(known)}", "; ".join(wrong), f"{op_type} {name}")
    constants: dict[str, Any] = {}
    if SALT in known:
        constants[SALT] = zlib.crc32(name.encode())
    dynamic = []
    for key, references in arguments.items():
        parameter = known[key]
        if not references and not parameter.variadic:
            raise damaged(f"a value for {key!r}", "none", f"{op_type} {name}")
        single = len(references) == 1 and not parameter.variadic
        fixed = [item.value for item in references if isinstance(item, Constant)]
        if len(fixed) == len(references):
            value = fixed[0] if single else fixed
            constants[key] = _converted(parameter, key, value, f"{op_type} {name}")
        else:
            dynamic.append(Dynamic(key, tuple(references), parameter.convert, single))
    return BoundCall(function, constants, tuple(dynamic))


def _converted(parameter: Parameter, key: str, value: object, op: str) -> object:
    if parameter.convert is None:
        return value
    with operands_fit(op):
        return parameter.convert(value)
