"""Changes of a specification that are drawn: any field, any other value of its type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Change = Callable[[Any], object]

# What a number, a size, an offset or an enumeration may be changed to.
_NUMBERS = (0, 1, 2, 3, 7, 99, 1 << 20, (1 << 31) - 1, (1 << 40), (1 << 62))
_NEGATIVE = (-1, -7, -(1 << 31), -(1 << 62))
_TEXTS = ("", "nowhere", "main", "x", "\0", "é" * 10, "../../up", "%s{}", "[bold]")


def drawn(seed: int) -> Change:
    """One to three fields, wherever they are, are cleared, doubled, or get another value."""

    def change(spec: Message) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(int(rng.integers(1, 4))):
            places = list(_fields(spec))
            message, field, key = places[int(rng.integers(len(places)))]
            _mutate(message, field, key, rng)

    return change


def _fields(message: Message) -> Iterator[tuple[Any, Any, object]]:
    """Every field that is set below ``message``; of maps and lists, every item."""
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in value:
                yield message, field, key
                if isinstance(value[key], Message):
                    yield from _fields(value[key])
        elif hasattr(value, "append") or hasattr(value, "add"):
            for index in range(min(len(value), 40)):
                yield message, field, index
                if isinstance(value[index], Message):
                    yield from _fields(value[index])
        else:
            yield message, field, None
            if isinstance(value, Message):
                yield from _fields(value)


def _mutate(
    message: Message, field: FieldDescriptor, key: object, rng: np.random.Generator
) -> None:
    value = getattr(message, field.name)
    item = value if key is None else value[key]
    if isinstance(item, Message) or rng.random() < 0.2:
        if key is None:
            message.ClearField(field.name)
        elif isinstance(item, Message) and isinstance(key, int) and rng.random() < 0.5:
            value.add().CopyFrom(item)
        else:
            del value[key]
        return
    other = _other(item, rng)
    try:
        if key is None:
            setattr(message, field.name, other)
        else:
            value[key] = other
    except (ValueError, TypeError):  # the field is too narrow for it
        message.ClearField(field.name)


def _other(item: object, rng: np.random.Generator) -> object:
    if isinstance(item, bool):
        return not item
    if isinstance(item, int):
        numbers = _NUMBERS + _NEGATIVE
        return numbers[int(rng.integers(len(numbers)))]
    if isinstance(item, float):
        return (0.0, -1.0, float("nan"), float("inf"), 1e30)[int(rng.integers(5))]
    if isinstance(item, bytes):
        return item[: int(rng.integers(len(item) + 1))]
    return _TEXTS[int(rng.integers(len(_TEXTS)))]
