"""Python source of graph modules, written when it is first asked for.

torch writes and compiles the source of each graph module whenever one is made or changed: 13 times
between a module and its package, of which one or none is run. It is a fourteenth of the time
(*measured*, torch 2.13).
"""

from __future__ import annotations

import threading
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
    """Inside, sources of graph modules that are made or changed wait until they are read or run.

    Those that nobody has asked for wait on behind the end; torch is as it was.
    """
    if getattr(_inside, "waits", False):
        yield
        return
    _inside.waits = True
    try:
        with replaced(fx.GraphModule, "recompile", _put_off):
            yield
    finally:
        _inside.waits = False


def _put_off(self: fx.GraphModule) -> object:
    if not getattr(_inside, "waits", False):  # another thread
        return _recompile(self)
    codegen = self._graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        self._in_spec = codegen.pytree_info.in_spec
        self._out_spec = codegen.pytree_info.out_spec
    own = type(self)  # each graph module has a class of its own
    for name in ("forward", *_WRITTEN):
        self.__dict__.pop(name, None)
        setattr(own, name, _Late(name))
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
