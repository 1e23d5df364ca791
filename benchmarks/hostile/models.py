"""MODELs whose code raises, ends the process, or returns what is no model; example inputs that are
none."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.hostile.case import OUTPUT, Case

_FILE = "model.py"
_HEAD = """\
import os, sys
import torch
from torch import nn

class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.function = function

    def forward(self, x):
        return self.function(self.inner(x))

X = torch.ones(2, 4)

"""

# The body of a file by what is wrong with it.
_IMPORTS: Mapping[str, str] = {
    "raises": "raise RuntimeError('not today')",
    "raises without a message": "raise ValueError",
    "raises a message of many lines": "raise KeyError('a\\n' * 1000)",
    "raises a base exception": "class Odd(BaseException): pass\nraise Odd('out')",
    "ends the process": "sys.exit(3)",
    "ends the process, content": "sys.exit()",
    "ends the process with words": "sys.exit('good bye')",
    "imports what is not there": "import no_such_module_anywhere",
    "is no Python": "def make(:",
    "holds a null byte": "a = '\0'",
    "has no function": "",
    "has a number for a function": "make = 3",
    "recurses": "def f(): return f()\nf()",
}
# The body of `make` by what is wrong with it.
_FUNCTIONS: Mapping[str, str] = {
    "raises": "raise RuntimeError('not today')",
    "ends the process": "sys.exit(3)",
    "ends the process, content": "sys.exit(0)",
    "returns nothing": "return None",
    "returns a number": "return 3",
    "returns a text": "return 'model'",
    "returns a class": "return Calls, (X,)",
    "returns a list": "return [nn.Linear(4, 4), (X,)]",
    "returns five things": "return nn.Linear(4, 4), (X,), {}, None, None",
    "returns no inputs": "return nn.Linear(4, 4), ()",
    "returns a tensor for inputs": "return nn.Linear(4, 4), X",
    "returns a number for inputs": "return nn.Linear(4, 4), 7",
    "returns text for inputs": "return nn.Linear(4, 4), ('four',)",
    "returns a number for keywords": "return nn.Linear(4, 4), (X,), 7",
    "returns dynamic shapes of another model": (
        "return nn.Linear(4, 4), (X,), {}, {'y': {0: torch.export.Dim('n')}}"
    ),
    "returns a number for dynamic shapes": "return nn.Linear(4, 4), (X,), {}, 7",
    "is a generator": "yield nn.Linear(4, 4), (X,)",
    "returns itself inside": "m = Calls(torch.sin); m.me = m; return m, (X,)",
}
# A call of a model with one linear layer: inputs by what is wrong with them.
_INPUTS: Mapping[str, str] = {
    "too wide": "torch.ones(2, 5)",
    "whole numbers": "torch.ones(2, 4, dtype=torch.int64)",
    "complex": "torch.ones(2, 4, dtype=torch.complex64)",
    "double": "torch.ones(2, 4, dtype=torch.float64)",
    "sparse": "torch.ones(2, 4).to_sparse()",
    "sparse by rows": "torch.ones(2, 4).to_sparse_csr()",
    "nested": "torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(1, 4)])",
    "meta": "torch.ones(2, 4, device='meta')",
    "empty": "torch.ones(0, 4)",
    "huge": "torch.ones(1).expand(1 << 38, 4)",
    "too large for memory": "torch.ones(1 << 46, 4)",
    "quantized": "torch.quantize_per_tensor(torch.ones(2, 4), 0.1, 0, torch.quint8)",
    "a dictionary": "{'x': torch.ones(2, 4)}",
    "an object": "object()",
    "nothing": "None",
    "rank 7": "torch.ones(1, 1, 1, 1, 1, 2, 4)",
}
# What forward does with the result of a linear layer.
_RESULTS: Mapping[str, str] = {
    "raises": "(_ for _ in ()).throw(KeyError('no such layer'))",
    "ends the process": "sys.exit(4)",
    "nothing": "None",
    "a text": "'done'",
    "an empty dictionary": "{}",
    "an empty tuple": "()",
    "keys that collide": "{'a.b': h, 'a_b': h + 1, 'a-b': h + 2}",
    "keys that are numbers": "{0: h, 1: h + 1}",
    "a key of an odd name": "{'ü 1\\n[bold]': h}",
    "an empty key": "{'': h}",
    "sparse": "h.to_sparse()",
    "complex": "torch.complex(h, h)",
    "of a size on data": "h[h > 0]",
    "a file's content": "open('no such file').read()",
    "matrices that do not fit": "h @ torch.ones(3, 3)",
    "an unknown operator": "torch.linalg.eigvals(h @ h.T)",
    "huge": "h.sum() + torch.zeros(1).expand(1 << 36)",
    "whole numbers beyond int32": "h.sum().long() + (1 << 40)",
    "not a number": "h * float('nan')",
    "of no elements": "h[:0]",
}
# These can be what somebody wants, or are small enough to be done.
_FINE = frozenset(
    (
        *("double", "empty", "rank 7", "whole numbers", "not a number", "of no elements"),
        *("nothing", "keys that collide", "keys that are numbers", "a key of an odd name"),
        *("returns itself inside", "returns a tensor for inputs", "of a size on data"),
    )
)
_LATE = frozenset(("huge", "an empty key", "an unknown operator", "meta", "quantized"))


def cases() -> Iterator[Case]:
    """Each model with `check` and with `convert`."""
    for name, body in _IMPORTS.items():
        yield from _both("code at import", name, _HEAD + body + "\n")
    yield from _both("code at import", "is no text", b"\xff\xfe\x00make")
    for name, body in _FUNCTIONS.items():
        yield from _both("function of MODEL", name, _made(body), name not in _FINE)
    for name, value in _INPUTS.items():
        text = _made(f"return nn.Linear(4, 4), ({value},)")
        yield from _both("example inputs", name, text, name not in _FINE)
    for name, value in _RESULTS.items():
        text = _made(f"return Calls(lambda h: {value}), (X,)")
        yield from _both("results of forward", name, text, name not in _FINE)
    for model in ("nowhere.py:make", "model.py", "model.py:", ":make", "", "model.py:no such", ".",
                  "no.such.module:make", "model.py:torch", "model.onnx", "model:make:again",
                  "../model.py:make", "model.py:__import__", "/:make", "json:loads"):  # fmt: skip
        yield _case(
            "names of MODEL",
            repr(model),
            _made("return nn.Linear(4, 4), (X,)"),
            model,
            "check",
            True,
            (),
        )


def _made(body: str) -> str:
    return f"{_HEAD}def make():\n{textwrap.indent(body, '    ')}\n"


def _both(kind: str, name: str, text: str | bytes, refused: bool = True) -> Iterator[Case]:
    for verb in ("check", "convert"):
        # `check` lists what is in the way, with exit code 1.
        must = refused and (verb == "convert" or kind == "code at import")
        yield _case(kind, name, text, f"{_FILE}:make", verb, must and name not in _LATE)


def _case(
    kind: str,
    name: str,
    text: str | bytes,
    model: str,
    verb: str,
    refused: bool,
    names: tuple[str, ...] = (_FILE,),
) -> Case:
    def make(folder: Path) -> None:
        (folder / _FILE).write_bytes(text if isinstance(text, bytes) else text.encode())

    output = ("-o", f"{OUTPUT}/net.mlpackage") if verb == "convert" else ()
    return Case(kind, name, (verb, model, *output), make, names, refused)
