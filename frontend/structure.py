"""Nested results as a flat list of tensors with readable names, and back."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch


@dataclasses.dataclass(frozen=True)
class Structure:
    """How flat leaves make up a result again.

    Attributes:
        kind: the type to rebuild, ``None`` for a leaf tensor, ``FixedLeaf`` for a stored value.
        keys: dictionary keys, field names or positions, one per child.
        children: the parts, in order.
        constant: the value itself where ``kind`` is ``FixedLeaf``.
    """

    kind: Any = None
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()
    constant: Any = None

    def unflatten(self, leaves: Sequence[Any]) -> object:
        """The result, with ``leaves`` in the place of its tensors."""
        return self._take(iter(leaves))

    def _take(self, leaves: Iterator[Any]) -> object:
        if self.kind is None:
            return next(leaves)
        if self.kind is FixedLeaf:
            return self.constant
        parts = [child._take(leaves) for child in self.children]
        if issubclass(self.kind, Mapping) or dataclasses.is_dataclass(self.kind):
            fields = dict(zip(self.keys, parts, strict=True))
            # A ModelOutput is a mapping and a dataclass: its fields are its arguments.
            by_name = dataclasses.is_dataclass(self.kind)
            return self.kind(**fields) if by_name else self.kind(fields)
        return self.kind(*parts) if hasattr(self.kind, "_fields") else self.kind(parts)


class FixedLeaf:
    """Marks a part of a result that is a plain Python value (``None``, a number, a text)."""


@dataclasses.dataclass(frozen=True)
class Flat:
    """A flattened result.

    Attributes:
        leaves: tensors and symbolic numbers, in order.
        names: a readable, unique, identifier-like name for each leaf.
        structure: what puts them together again.
        dropped: parts that no package can return, ``path: type`` each.
        paths: the model's own keys and positions of each leaf, joined by ``_``.
    """

    leaves: list[Any]
    names: list[str]
    structure: Structure
    dropped: list[str]
    paths: list[str]


def flatten(result: object, *, taken: Sequence[str] = ()) -> Flat:
    """Flattens a nested result of tensors.

    Tuples, lists, named tuples, mappings, dataclasses and HuggingFace ``ModelOutput`` are
    walked; numbers, texts and ``None`` are kept as constants; any other object is dropped (it
    comes back as ``None``) and named in ``Flat.dropped``.

    Args:
        result: what ``forward`` returned.
        taken: names the leaves may not have, such as those of the inputs.
    """
    flat = Flat([], [], Structure(), [], [])
    structure = _walk(result, (), flat)
    names = _unique([_readable(path) for path in flat.paths], taken)
    return Flat(flat.leaves, names, structure, flat.dropped, flat.paths)


def _walk(value: object, path: tuple[str, ...], flat: Flat) -> Structure:
    if isinstance(value, torch.Tensor | torch.SymInt | torch.SymFloat | torch.SymBool):
        flat.leaves.append(value)
        flat.paths.append("_".join(path))
        return Structure()
    if value is None or isinstance(value, bool | int | float | complex | str | torch.dtype):
        return Structure(FixedLeaf, constant=value)
    items: list[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = list(value.items())
    elif dataclasses.is_dataclass(value):
        items = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init]
    elif isinstance(value, tuple | list):
        items = list(enumerate(value))
    else:
        flat.dropped.append(f"{'.'.join(path) or 'the result'}: {type(value).__name__}")
        return Structure(FixedLeaf)
    kind: Any = type(value)
    children = tuple(_walk(part, (*path, _label(value, key)), flat) for key, part in items)
    return Structure(kind, tuple(key for key, _ in items), children)


def _label(container: object, key: object) -> str:
    fields = getattr(container, "_fields", None)  # a named tuple's
    return fields[key] if fields else str(key)


def _readable(path: str) -> str:
    name = re.sub(r"\W+", "_", path).strip("_")
    if not name:
        return "output"
    return f"output_{name}" if name[0].isdigit() else name


def _unique(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    used = set(taken)
    result = []
    for name in names:
        candidate, suffix = name, "out"
        while candidate in used:
            candidate, suffix = f"{name}_{suffix}", f"{suffix}_"
        used.add(candidate)
        result.append(candidate)
    return result
