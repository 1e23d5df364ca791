"""The one way to edit a graph: emits nodes with metadata, checks replacements, keeps counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from frontend.program import Draft, FakeCalls
from frontend.random_calls import draws_random
from frontend.source import Source, source_of
from passes.errors import InvariantError


@dataclass(frozen=True)
class Declined:
    """A place where a pass looked and did not rewrite.

    Attributes:
        node: name of the node.
        op: its operator.
        source: where it comes from.
        reason: one sentence.
    """

    node: str
    op: str
    source: Source
    reason: str


class Rewriter:
    """Edits one program for one pass.

    Attributes:
        graph: the graph; read it freely, edit it through this object only.
        rewrites: how many times ``replace`` was called with ``counted`` set.
        declined: every refusal, in order.
        notes: sentences for the user that are no refusals (warnings of changed behaviour).
    """

    def __init__(self, draft: Draft, pass_name: str) -> None:
        self._draft = draft
        self._pass_name = pass_name
        self._anchor: fx.Node | None = None
        self._constant: dict[fx.Node, bool] = {}
        self._values: dict[fx.Node, torch.Tensor] = {}
        self._fake_calls = FakeCalls(draft.fake_mode)
        self._has_data_sizes = any("unbacked_bindings" in n.meta for n in draft.graph.nodes)
        self._sites: Callable[[str], bool] = lambda module: True
        self.graph = draft.graph
        self.rewrites = 0
        self.declined: list[Declined] = []
        self.notes: list[str] = []
        self.emitted: list[fx.Node] = []

    @property
    def root(self) -> fx.GraphModule:
        """The module that holds the subgraphs of higher-order operators; not to be edited."""
        return self._draft.root

    def find(self, *targets: Any) -> list[fx.Node]:
        """Nodes that call one of ``targets``, in program order.

        Those whose sizes depend on data are declined: a rewrite cannot ask for such a size.
        """
        wanted = set(targets)
        found = [
            n
            for n in self.graph.nodes
            if n.op == "call_function" and n.target in wanted and self._sites(source_of(n).module)
        ]
        if not self._has_data_sizes:
            return found
        sized_by_data = [n for n in found if _is_sized_by_data(n)]
        for node in sized_by_data:
            self.decline(node, "its size is known only when the model runs")
        return [node for node in found if node not in sized_by_data]

    @contextmanager
    def limited_to(self, modules: Collection[str], *, inverted: bool = False) -> Iterator[None]:
        """Inside, ``find`` finds operators of these modules only, or of all others."""
        before = self._sites
        self._sites = lambda module: (module in modules) != inverted
        try:
            yield
        finally:
            self._sites = before

    @contextmanager
    def at(self, node: fx.Node) -> Iterator[None]:
        """Inside, ``emit`` inserts before ``node`` and inherits its source."""
        outer, self._anchor = self._anchor, node
        try:
            with self.graph.inserting_before(node):
                yield
        finally:
            self._anchor = outer

    @contextmanager
    def after(self, node: fx.Node) -> Iterator[None]:
        """Inside, ``emit`` inserts behind ``node``, in order, and inherits its source."""
        place = node.next
        while place.op == "placeholder":
            place = place.next
        outer, self._anchor = self._anchor, node
        try:
            with self.graph.inserting_before(place):
                yield
        finally:
            self._anchor = outer

    def emit(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new node; its fake value is computed from those of its arguments.

        Raises:
            InvariantError: the operator refuses the shapes or dtypes.
        """
        if self._anchor is None:
            raise InvariantError("emit was called outside Rewriter.at", op=str(target))
        try:
            value = self._fake_calls(target, args, kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InvariantError(
                f"pass {self._pass_name} emitted an operator that does not fit its arguments",
                op=str(target),
                module=source_of(self._anchor).module,
                source=source_of(self._anchor).line,
                found=f"{error} for {[_shape(a) for a in args]}",
                hint="report this model; leave the pass out of the pipeline meanwhile",
            ) from error
        node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = value
        for key in ("stack_trace", "nn_module_stack"):
            if key in self._anchor.meta:
                node.meta[key] = self._anchor.meta[key]
        node.meta["rewritten_by"] = _chain(self._anchor, self._pass_name)
        self.emitted.append(node)
        return node

    def constant(self, name: str, tensor: torch.Tensor) -> fx.Node:
        """A new constant; ``name`` hints at where it comes from."""
        node = self._draft.add_constant(name, tensor)
        self._constant[node] = True
        return node

    def replace(self, old: fx.Node, new: fx.Node, *, counted: bool = True) -> None:
        """Lets every user of ``old`` use ``new``.

        Raises:
            InvariantError: their shapes or dtypes differ.
        """
        expected, found = old.meta["val"], new.meta["val"]
        if _shape(old) != _shape(new) or _dtype(expected) != _dtype(found):
            raise InvariantError(
                f"pass {self._pass_name} replaced a value by a different one",
                op=str(old.target),
                module=source_of(old).module,
                source=source_of(old).line,
                expected=f"{_dtype(expected)} {_shape(old)}",
                found=f"{_dtype(found)} {_shape(new)} from {new.target}",
                hint="report this model; leave the pass out of the pipeline meanwhile",
            )
        old.replace_all_uses_with(new)
        self.rewrites += counted

    def erase(self, node: fx.Node) -> None:
        """Removes a node without users."""
        self.graph.erase_node(node)

    def decline(self, node: fx.Node, reason: str) -> None:
        """Records why ``node`` was left as it is."""
        self.declined.append(Declined(node.name, str(node.target), source_of(node), reason))

    def note(self, sentence: str) -> None:
        """Tells the user something about the rewrite that is no refusal."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def is_constant(self, node: fx.Node) -> bool:
        """True if the value follows from parameters, unchanging buffers and literals alone."""
        pending = [node]
        while pending:
            current = pending[-1]
            if current in self._constant:
                pending.pop()
                continue
            if current.op == "placeholder":
                self._constant[current] = self._draft.constant(current) is not None
            elif current.op != "call_function" or not _is_pure(current):
                self._constant[current] = False
            else:
                unknown = [n for n in current.all_input_nodes if n not in self._constant]
                if unknown:
                    pending.extend(unknown)
                    continue
                self._constant[current] = all(self._constant[n] for n in current.all_input_nodes)
            pending.pop()
        return self._constant[node]

    def value(self, node: fx.Node) -> torch.Tensor:
        """The tensor of a constant node, computed once; not to be written to."""
        stored = self._draft.constant(node)
        if stored is not None:
            return stored
        if node not in self._values:
            args, kwargs = fx.map_arg((node.args, node.kwargs), self.value)
            with torch.no_grad():
                self._values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return self._values[node]

    def constant_name(self, node: fx.Node) -> str:
        """Qualified name of the stored tensor behind a constant placeholder."""
        return self._draft.constant_name(node)

    def keep_buffer(self, node: fx.Node) -> None:
        """Drops the program's writes to the buffer behind ``node``: it is constant from now on."""
        self._draft.keep_buffer(node)
        self._constant.clear()

    def user_inputs(self) -> list[fx.Node]:
        """Placeholders of the call's arguments, in order."""
        return self._draft.user_inputs()


def _is_sized_by_data(node: fx.Node) -> bool:
    values = [node.meta.get("val"), *(n.meta.get("val") for n in node.all_input_nodes)]
    return any(free_unbacked_symbols(value) for value in values if value is not None)


def _is_pure(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True
    return not draws_random(node) and not target._schema.is_mutable


def _chain(anchor: fx.Node, name: str) -> tuple[str, ...]:
    earlier = anchor.meta.get("rewritten_by", ())
    return earlier if earlier and earlier[-1] == name else (*earlier, name)


def _shape(value: Any) -> Any:
    value = value.meta.get("val") if isinstance(value, fx.Node) else value
    return tuple(value.shape) if isinstance(value, torch.Tensor) else value


def _dtype(value: Any) -> Any:
    return value.dtype if isinstance(value, torch.Tensor) else type(value)
