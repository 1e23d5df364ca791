"""The Python objects that a model holds: where its tensors are, and everything as it was."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

# A model holds tens of objects; whoever holds more (a tokenizer, a data set) keeps no state there.
_MOST_OBJECTS = 50_000
# Exactly these are looked into and put back.
_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)
# Objects of these packages belong to the process, not to a model.
_NOT_OURS = ("logging", "threading", "multiprocessing", "asyncio", "importlib", "torch", "numpy")


def held_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that can be reached from ``model``, with a path such as ``cache.keys.0``.

    Parameters and buffers come under their own names. Looked into are modules, lists, tuples,
    dictionaries and the attributes of other objects.
    """
    for path, value in _walk(model):
        if isinstance(value, Tensor):
            yield path, value


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Puts back what the objects below ``model`` are bound to; contents of tensors stay written."""
    kept: list[tuple[Any, Any]] = []
    for _, value in _walk(model):
        held = value if type(value) in _CONTAINERS else _attributes(value)
        if held is not None:
            kept.append((held, held.copy()))
    try:
        yield
    finally:
        for live, before in kept:
            if _differ(live, before):
                live.clear()
                live.extend(before) if isinstance(live, list | deque) else live.update(before)


def _differ(live: Any, before: Any) -> bool:
    if len(live) != len(before):
        return True
    if isinstance(live, set):
        return live != before
    pairs = zip(live.items(), before.items(), strict=True) if isinstance(live, dict) else ()
    if isinstance(live, dict):
        return any(k is not key or v is not value for (k, v), (key, value) in pairs)
    return any(a is not b for a, b in zip(live, before, strict=True))


def _walk(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Breadth first, each object once."""
    seen: set[int] = set()
    queue: deque[tuple[str, Any]] = deque([("", model)])
    while queue and len(seen) < _MOST_OBJECTS:
        path, value = queue.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield path, value
        for name, part in _parts(value):
            if _may_hold_tensors(part):
                queue.append((".".join(filter(None, (path, str(name)))), part))


def _parts(value: object) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, nn.Module):
        yield from _module_parts(value)
    elif isinstance(value, dict):
        yield from list(value.items())
    elif isinstance(value, list | tuple | deque):
        yield from enumerate(list(value))
    elif not isinstance(value, Tensor) and (held := _attributes(value)) is not None:
        yield from list(held.items())


def _module_parts(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """A module's tables of tensors and modules are not part of the path."""
    for name, value in list(vars(module).items()):
        yield "" if name in ("_parameters", "_buffers", "_modules") else name, value


def _attributes(value: object) -> dict[str, Any] | None:
    """The attributes of an object that a model may keep its state in."""
    if isinstance(value, type | ModuleType | FunctionType | MethodType | Tensor):
        return None
    if not isinstance(value, nn.Module) and str(type(value).__module__).split(".")[0] in _NOT_OURS:
        return None
    found = getattr(value, "__dict__", None)
    return found if type(found) is dict else None


def _may_hold_tensors(value: object) -> bool:
    plain = None | bool | int | float | complex | str | bytes | torch.dtype | torch.device
    return not isinstance(value, plain)
