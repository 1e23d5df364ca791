"""What makes two programs, or two runs of this code, the same."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from passes.base import Pass
from passes.default_pipeline import ALL_PASSES
from passes.pipeline_text import to_text

_ROOT = Path(__file__).parents[2]
# Only these make or measure a variant; the command line and reports show what they found.
_CODE = ("frontend", "passes", "lowering")
_SHOWS = ("lowering/cli", "lowering/reporting")


class Digester:
    """Digests of programs that share weights; each weight is read once.

    The digest covers operators, arguments, shapes, dtypes, weights and the names of inputs and
    outputs, and leaves out the names of nodes, sources and other metadata.
    """

    def __init__(self) -> None:
        # Keeps the tensors: an address says nothing about a tensor that is gone.
        self._known: dict[Any, tuple[torch.Tensor, str]] = {}

    def program(self, program: ExportedProgram) -> str:
        """Hexadecimal SHA-256 of what ``program`` computes."""
        digest = hashlib.sha256()
        signature = program.graph_signature
        places = {node.name: i for i, node in enumerate(program.graph.nodes)}
        for spec in (*signature.input_specs, *signature.output_specs):
            is_user = spec.kind.name.startswith("USER")
            name = spec.arg.name if is_user and hasattr(spec.arg, "name") else ""
            value = str(getattr(spec.arg, "value", ""))
            digest.update(f"{spec.kind.name}|{name}|{value}\n".encode())
            if not is_user and spec.target is not None:
                digest.update(self._stored(program, spec.target).encode())
            digest.update(str(places.get(getattr(spec.arg, "name", ""), "")).encode())
        for line in self._lines(program.graph_module, program.graph):
            digest.update(line.encode())
        return digest.hexdigest()

    def _lines(self, owner: torch.nn.Module, graph: fx.Graph) -> Iterator[str]:
        places = {node: f"%{i}" for i, node in enumerate(graph.nodes)}
        for node in graph.nodes:
            args, kwargs = fx.node.map_aggregate(
                (node.args, dict(node.kwargs)),
                lambda entry: places[entry] if isinstance(entry, fx.Node) else entry,
            )
            value = node.meta.get("val") if node.op == "placeholder" else None
            kind = f"{value.dtype}{tuple(value.shape)}" if torch.is_tensor(value) else ""
            target = node.target if node.op in ("call_function", "call_method") else ""
            yield f"{node.op} {target} {args!r} {kwargs!r} {kind}\n"
            if node.op == "get_attr":
                held = functools.reduce(getattr, str(node.target).split("."), owner)
                if isinstance(held, fx.GraphModule):
                    yield from self._lines(held, held.graph)
                elif isinstance(held, torch.Tensor):
                    yield self._tensor(held)

    def _stored(self, program: ExportedProgram, name: str) -> str:
        held = program.state_dict.get(name, program.constants.get(name))
        return self._tensor(held) if isinstance(held, torch.Tensor) else str(held)

    def _tensor(self, tensor: torch.Tensor) -> str:
        tensor = tensor.detach()
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in self._known:
            raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
            content = hashlib.sha256(raw).hexdigest()
            self._known[key] = tensor, f"{tensor.dtype}{tuple(tensor.shape)}{content}"
        return self._known[key][1]


@functools.cache
def code_digest() -> str:
    """Hexadecimal SHA-256 of the code that makes and measures variants, and of its libraries."""
    digest = hashlib.sha256()
    for package in ("torch", "coremltools", "numpy"):
        digest.update(f"{package} {metadata.version(package)}\n".encode())
    for folder in _CODE:
        for path in sorted((_ROOT / folder).rglob("*")):
            name = path.relative_to(_ROOT).as_posix()
            if path.suffix in (".py", ".json") and not name.startswith(_SHOWS):
                digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def passes_digest(pipeline: Sequence[Pass]) -> str:
    """Hexadecimal SHA-256 of the passes, and of the files of those that this code has not."""
    digest = hashlib.sha256("\n".join(to_text(pipeline)).encode())
    for kind in dict.fromkeys(_classes(pipeline)):
        if kind not in ALL_PASSES:
            digest.update(Path(inspect.getfile(kind)).read_bytes())
    return digest.hexdigest()


def _classes(value: Any) -> Iterator[type[Pass]]:
    """Of passes, and of the passes that are their options."""
    if isinstance(value, Pass):
        yield type(value)
        yield from _classes(tuple(value.options().values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _classes(part)


def text_digest(*parts: str) -> str:
    """Hexadecimal SHA-256 of texts, told apart from each other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()
