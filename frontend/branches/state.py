"""What a model keeps between calls, watched over the runs of the branch explorer.

Every path through a model has to start from the same state, and what the paths leave behind has
to be merged like their results. The state is the content of buffers, parameters and inputs (written
in place), and what the modules' attributes are bound to, with plain containers looked into.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from frontend.branches.trace import Trace, storage_id
from frontend.errors import CaptureError
from frontend.source import source_line


class BranchError(CaptureError):
    """Python control flow on tensor values that cannot become ``torch.where``."""

    rule = "branch-not-merged"


class ValueInPythonError(BranchError):
    """Python takes a value out of a tensor that depends on data."""

    rule = "value-in-python"


@dataclass(frozen=True)
class Effect:
    """What one run left behind in one place.

    Attributes:
        label: the place, such as ``encoder.counter``.
        value: what it holds at the end: for a tensor written in place its content.
    """

    label: str
    value: Any


Effects = dict[Hashable, Effect]


class Missing:
    """Stands for an attribute that does not exist."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = Missing()


# Exactly these are looked into and put back; other objects are compared by identity.
_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)


@dataclass
class _Tensor:
    label: str
    tensor: Tensor
    node: fx.Node | None  # what computed it before the first run
    shape: torch.Size
    version: int
    before: Tensor | None = None  # a copy from before the first run, once needed

    @property
    def is_written(self) -> bool:
        return self.tensor._version != self.version


@dataclass(frozen=True)
class _Container:
    label: str
    live: Any
    copy: Any


class BranchState:
    """The state of ``module`` and its ``inputs``, as it is at construction.

    Args:
        module: the module that runs.
        inputs: the call's tensors, which a model may write in place.
        trace: the recording export.
    """

    def __init__(self, module: nn.Module, inputs: Iterable[Any], trace: Trace) -> None:
        self.trace = trace
        self._containers: dict[int, _Container] = {}
        self._tensors: dict[int, _Tensor] = {}
        self._buffer_owners = {id(child._buffers): child for child in module.modules()}
        self._rebound: dict[tuple[int, str], _Tensor] = {}  # buffers bound anew in any run
        self._touched: set[int] = set()  # storages whose content will be written over
        for path, child in module.named_modules():
            self._watch(path, vars(child))
        for index, value in enumerate(inputs):
            if isinstance(value, Tensor):
                self._watch(f"input {index}", value)

    def effects(self) -> Effects:
        """What the run since construction or the last ``restore`` has left behind.

        Raises:
            BranchError: a tensor changed in a way that cannot be undone.
        """
        rebound = self._rebound_buffers()
        written = [known for known in self._tensors.values() if known.is_written]
        self._touched = {storage_id(known.tensor) for known in written}
        self._touched |= {storage_id(known.tensor) for known, _ in rebound.values()}
        found: Effects = {}
        for known in written:
            self._check_undoable(known)
            found[id(known.tensor)] = Effect(known.label, known.tensor.clone())
        for known, new in rebound.values():
            # Binding a buffer anew is writing it: the buffer itself stays in place.
            found[id(known.tensor)] = Effect(known.label, self.current(new))
        for container in self._containers.values():
            for key, label, _, new in _changes(container):
                if (id(container.live), key) not in rebound:
                    found[id(container.live), key] = Effect(label, self._current_tree(new))
        return found

    def rebinds_buffers(self) -> bool:
        """Whether the run has bound a buffer to another tensor."""
        return bool(self._rebound_buffers())

    def check_watched(self) -> None:
        """Refuses writes in place that cannot be undone, since nothing here knows the tensor."""
        node = self.trace.foreign_write({storage_id(t.tensor) for t in self._tensors.values()})
        if node is not None:
            raise BranchError(
                "a tensor that is neither state nor input is written in place by a model with "
                "branches on data",
                op=str(node.target),
                source=source_line(node) or None,
                hint="keep it in a buffer (register_buffer), or write to a clone of it",
            )

    def current(self, tensor: Tensor) -> Tensor:
        """``tensor``, copied if putting state back or merging it would change it."""
        return tensor.clone() if storage_id(tensor) in self._touched else tensor

    def initial(self, place: Hashable) -> object:
        """What ``place``, a key of ``effects``, held before the run; valid once restored."""
        if isinstance(place, tuple):
            container, key = place
            copy = self._containers[container].copy
            return copy.get(key, MISSING) if isinstance(copy, dict) else copy
        assert isinstance(place, int)
        return self._tensors[place].tensor

    def restore(self) -> None:
        """Puts everything back as it was at construction."""
        for place, (known, _) in self._rebound_buffers().items():
            self._rebound[place] = known
        for container in self._containers.values():
            _put_back(container)
        for known in self._tensors.values():
            if known.is_written:
                if known.before is None:
                    known.before = self.trace.before(known.tensor, known.node)
                _overwrite(known.tensor, known.before)
                known.version = known.tensor._version

    def apply(self, effects: Effects) -> None:
        """Makes ``effects`` the state, each tensor by one write in place.

        Raises:
            BranchError: a tensor would change its shape or dtype.
        """
        for place, effect in effects.items():
            if isinstance(place, tuple):
                container, key = place
                live = self._containers[container].live
                if not isinstance(live, dict):
                    _refill(live, effect.value)
                elif effect.value is MISSING:
                    live.pop(key, None)
                else:
                    live[key] = effect.value
                continue
            assert isinstance(place, int)
            known = self._tensors[place]
            if (effect.value.shape, effect.value.dtype) != (known.shape, known.tensor.dtype):
                raise BranchError(
                    "a buffer is bound to a tensor of another shape or type in a branch",
                    op=effect.label,
                    expected=_describe(known.tensor),
                    found=_describe(effect.value),
                    hint="give the buffer its final shape and dtype where it is registered",
                )
            if effect.value is not known.tensor:
                _overwrite(known.tensor, effect.value)
        for (owner, name), known in self._rebound.items():
            # The exporter writes the tensor that was last bound into the buffer: let that be it.
            setattr(self._buffer_owners[owner], name, known.tensor)

    def _watch(self, label: str, value: Any) -> None:
        if isinstance(value, Tensor):
            if id(value) not in self._tensors and not value.is_inference():
                node = self.trace.node_of(value)
                self._tensors[id(value)] = _Tensor(
                    _readable(label), value, node, value.shape, value._version
                )
        elif type(value) in _CONTAINERS and id(value) not in self._containers:
            self._containers[id(value)] = _Container(label, value, value.copy())
            if not isinstance(value, set):
                for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                    self._watch(f"{label}.{key}".lstrip("."), item)

    def _rebound_buffers(self) -> dict[tuple[int, str], tuple[_Tensor, Tensor]]:
        found = {}
        for table in self._buffer_owners:
            for key, _, old, new in _changes(self._containers[table]):
                if isinstance(new, Tensor) and id(old) in self._tensors:
                    found[table, key] = self._tensors[id(old)], new
        return found

    def _check_undoable(self, known: _Tensor) -> None:
        if not isinstance(known.tensor, FakeTensor) or known.node is None:
            raise BranchError(
                "a tensor attribute that is no buffer is written in place",
                op=known.label,
                hint="register it with register_buffer, so that it becomes part of the state",
            )
        if known.tensor.shape != known.shape:
            raise BranchError(
                "a tensor of the model's state is resized in place",
                op=known.label,
                expected=str(tuple(known.shape)),
                found=str(tuple(known.tensor.shape)),
            )

    def _current_tree(self, value: object) -> object:
        def current(leaf: object) -> object:
            return self.current(leaf) if isinstance(leaf, Tensor) else leaf

        return torch.utils._pytree.tree_map(current, value)


def _changes(container: _Container) -> Iterator[tuple[Any, str, Any, Any]]:
    """``(key, label, old, new)`` of each binding that changed; lists and sets change whole."""
    live, copy = container.live, container.copy
    if isinstance(live, dict):
        for key in {**copy, **live}:
            old, new = copy.get(key, MISSING), live.get(key, MISSING)
            if old is not new:
                yield key, _readable(f"{container.label}.{key}"), old, new
    elif _differ(live, copy):
        yield None, _readable(container.label), copy, live.copy()


def _differ(a: Any, b: Any) -> bool:
    if isinstance(a, set):
        return a != b
    return len(a) != len(b) or any(x is not y for x, y in zip(a, b, strict=True))


def _put_back(container: _Container) -> None:
    for key, _, old, _ in list(_changes(container)):
        if not isinstance(container.live, dict):
            _refill(container.live, old)
        elif old is MISSING:
            del container.live[key]
        else:
            container.live[key] = old


def _refill(live: Any, content: Any) -> None:
    live.clear()
    live.update(content) if isinstance(live, set) else live.extend(content)


def _overwrite(tensor: Tensor, value: Tensor) -> None:
    if tensor.requires_grad:
        with torch.no_grad():
            tensor.copy_(value)
    else:
        tensor.copy_(value)


def _readable(label: str) -> str:
    """The label as the user spells it: a module's tables of tensors are not part of the path."""
    parts = label.strip(".").split(".")
    return ".".join(part for part in parts if part not in ("_buffers", "_parameters"))


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
