"""Python source of graph modules, written when it is first asked for.

torch writes and compiles the source of each graph module whenever one is made or changed: 19 times
in one capture, of which two are run. It is a seventh of the time (*measured*, torch 2.13).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from torch import fx
from torch.fx.graph import _PyTreeCodeGen

from frontend.branches.ask import replaced

# What a recompilation leaves on a module, beside the ``forward`` of its class.
_WRITTEN = ("_code", "_lineno_map", "_prologue_start")
_recompile = fx.GraphModule.recompile
_inside = threading.local()


@contextmanager
def late_code() -> Iterator[None]:
    """Inside, sources are written when they are read or run; all that live are, at the end."""
    if getattr(_inside, "waiting", None) is not None:
        yield
        return
    waiting: list[weakref.ref[fx.GraphModule]] = []
    _inside.waiting = waiting
    try:
        with replaced(fx.GraphModule, "recompile", _put_off):
            yield
    finally:
        _inside.waiting = None
        for reference in waiting:
            module = reference()
            if module is not None and isinstance(vars(type(module)).get("forward"), _Late):
                _recompile(module)


def _put_off(self: fx.GraphModule) -> object:
    waiting = getattr(_inside, "waiting", None)
    if waiting is None:  # another thread
        return _recompile(self)
    codegen = self._graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        self._in_spec = codegen.pytree_info.in_spec
        self._out_spec = codegen.pytree_info.out_spec
    own = type(self)  # each graph module has a class of its own
    for name in ("forward", *_WRITTEN):
        self.__dict__.pop(name, None)
        setattr(own, name, _Late(name))
    waiting.append(weakref.ref(self))
    return None


class _Late:
    """Stands for an attribute until it is read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, module: fx.GraphModule | None, owner: type) -> object:
        if module is None:
            return self
        _recompile(module)
        return getattr(module, self._name)
