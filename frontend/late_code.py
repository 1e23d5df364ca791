"""Python source of graph modules, written when it is first asked for.

torch writes and compiles the source of each graph module whenever one is made or changed: 28 times
between a linear layer and its package, and one or none is run. A tenth of the time (*measured*,
torch 2.13).
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
        setattr(own, name, _Late(name, self))
    return None


class _Late:
    """Stands for an attribute of a graph module, and of its class, until it is read."""

    def __init__(self, name: str, module: fx.GraphModule) -> None:
        self._name = name
        self._module = weakref.ref(module)

    def __get__(self, module: fx.GraphModule | None, owner: type) -> object:
        of_class = module is None
        module = self._module() if module is None else module
        if module is None:  # the class has outlived its only module
            return self
        _recompile(module)
        return getattr(owner if of_class else module, self._name)
