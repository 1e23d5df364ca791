"""The one way to edit a graph: emits nodes with metadata, checks replacements, keeps counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from frontend.encoding import Encoding
from frontend.fake_calls import FakeCalls
from frontend.program import Draft
from frontend.random_calls import is_pure
from frontend.source import Source, module_path, source_of
from passes.base import Pass
from passes.errors import InvariantError
from passes.patterns.nodes import Target

# Where an operator comes from; everything else of its metadata is computed anew.
_SOURCE_KEYS = ("stack_trace", "nn_module_stack")


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

    A node may be read freely; whatever is written goes through this object.

    Attributes:
        has_edited: the graph is not as the pass found it; emitting alone counts.
        rewrites: how many places were rewritten.
        declined: every refusal, in order.
        notes: sentences for the user that are no refusals (warnings of changed behaviour).
        emitted: every new operator, in the order they were made.
        fake_calls: shapes and dtypes of calls, with those that are known.
        failed_at: where the pass was at work when it raised something, if that was anywhere.
    """

    def __init__(self, draft: Draft, step: Pass) -> None:
        self._draft = draft
        self._step = step
        self._anchor: fx.Node | None = None
        self._constant: dict[fx.Node, bool] = {}
        self._values: dict[fx.Node, torch.Tensor] = {}
        self.fake_calls = FakeCalls(draft.fake_mode)
        self._has_data_sizes = has_data_sizes(draft.graph)
        self._sites: Callable[[str], bool] | None = None
        self._graph = draft.graph
        self.has_edited = False
        self.rewrites = 0
        self.declined: list[Declined] = []
        self.notes: list[str] = []
        self.emitted: list[fx.Node] = []
        self.failed_at: fx.Node | None = None

    @property
    def root(self) -> fx.GraphModule:
        """The module that holds the subgraphs of higher-order operators; not to be edited."""
        return self._draft.root

    @property
    def output(self) -> fx.Node:
        """The node that returns the results."""
        return self._graph.output_node()

    def nodes(self) -> list[fx.Node]:
        """Every call of an operator where the pass may look, in program order."""
        sites = self._sites
        return [
            node
            for node in self._graph.nodes
            if node.op == "call_function" and (sites is None or sites(module_path(node)))
        ]

    def find(self, *targets: Target) -> list[fx.Node]:
        """Nodes that call one of ``targets``, in program order.

        Those whose sizes depend on data are declined: a rewrite cannot ask for such a size.
        """
        wanted = set(targets)
        found = [node for node in self.nodes() if node.target in wanted]
        if not self._has_data_sizes:
            return found
        sized_by_data = [n for n in found if _is_sized_by_data(n)]
        for node in sized_by_data:
            self.decline(node, "its size is known only when the model runs")
        return [node for node in found if node not in sized_by_data]

    @contextmanager
    def limited_to(self, modules: Collection[str], *, inverted: bool = False) -> Iterator[None]:
        """Inside, only operators of these modules are found, or only those of all others."""
        before = self._sites
        self._sites = lambda module: (
            (before is None or before(module)) and (module in modules) != inverted
        )
        try:
            yield
        finally:
            self._sites = before

    @contextmanager
    def at(self, node: fx.Node) -> Iterator[None]:
        """Inside, ``emit`` inserts before ``node`` and inherits its source."""
        with self._emitting(node, before=node):
            yield

    @contextmanager
    def after(self, node: fx.Node) -> Iterator[None]:
        """Inside, ``emit`` inserts behind ``node``, in order, and inherits its source."""
        place = node.next
        while place.op == "placeholder":
            place = place.next
        with self._emitting(node, before=place):
            yield

    @contextmanager
    def _emitting(self, anchor: fx.Node, before: fx.Node) -> Iterator[None]:
        outer, self._anchor, self.failed_at = self._anchor, anchor, None
        try:
            with self._graph.inserting_before(before):
                yield
        except Exception:
            self.failed_at = self.failed_at or anchor
            raise
        finally:
            self._anchor = outer

    def emit(self, target: Target, *args: Any, **kwargs: Any) -> fx.Node:
        """A new node; its fake value is computed from those of its arguments.

        Raises:
            InvariantError: the operator refuses the shapes or dtypes.
        """
        assert callable(target), target
        if self._anchor is None:
            raise InvariantError("emit was called outside Rewriter.at", op=str(target))
        try:
            value = self.fake_calls(target, args, kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InvariantError(
                f"pass {self._step.name} emitted an operator that does not fit its arguments",
                op=str(target),
                module=source_of(self._anchor).module,
                source=source_of(self._anchor).line,
                found=f"{error} for {[_shape(a) for a in args]}",
                hint=self._step.advice,
            ) from error
        self.has_edited = True
        node = self._graph.call_function(target, args, kwargs)
        node.meta["val"] = value
        self.inherit_source(node, self._anchor)
        node.meta["rewritten_by"] = _chain(self._anchor, self._step.name)
        self.emitted.append(node)
        return node

    def constant(
        self, name: str, tensor: torch.Tensor, encoding: Encoding | None = None
    ) -> fx.Node:
        """A new constant; ``name`` hints at where it comes from, ``encoding`` at its storage."""
        self.has_edited = True
        node = self._draft.add_constant(name, tensor, encoding)
        self._constant[node] = True
        return node

    def replace(self, old: fx.Node, new: fx.Node, *, counted: bool = True) -> None:
        """Lets every user of ``old`` use ``new``.

        Args:
            old: the node to be replaced; it stays until the pass is done, without users.
            new: a node of the same shape and dtype.
            counted: this is a rewrite of its own, and no part of one.

        Raises:
            InvariantError: their shapes or dtypes differ.
        """
        self._check_same(old, new)
        self.has_edited = True
        old.replace_all_uses_with(new)
        self.rewrites += counted

    def replace_results(self, old: fx.Node, new: Sequence[fx.Node]) -> None:
        """The same for an operator of several results, each taken by ``getitem``.

        Raises:
            InvariantError: shapes or dtypes differ.
        """
        for user in list(old.users):
            self.replace(user, new[cast(int, user.args[1])], counted=False)
        self.rewrites += 1

    def merge(self, old: fx.Node, known: fx.Node) -> None:
        """Lets every user of ``old`` use ``known``, which computes the same by the same operator.

        Sizes are not compared: those that are known only when the model runs have a symbol of
        their own in each call.

        Raises:
            InvariantError: the operators differ.
        """
        if old.target is not known.target:
            raise self._different(old, str(old.target), str(known.target))
        self.has_edited = True
        old.replace_all_uses_with(known)
        self.rewrites += 1

    def use_instead(self, user: fx.Node, old: fx.Node, new: fx.Node) -> None:
        """Lets one user of ``old`` use ``new``; no rewrite of its own, see ``rewritten``.

        Raises:
            InvariantError: shapes or dtypes differ. A pass that declares ``changes_outputs``
                may give the program's results another shape.
        """
        self._check_same(old, new, any_shape=user is self.output and self._step.changes_outputs)
        self.has_edited = True
        user.replace_input_with(old, new)

    def rewritten(self, node: fx.Node) -> None:
        """Counts ``node`` as rewritten, where ``replace`` does not."""
        self.rewrites += 1

    def inherit_source(self, node: fx.Node, origin: fx.Node) -> None:
        """Lets an emitted node come from where ``origin`` comes from."""
        self.has_edited = True
        for key in _SOURCE_KEYS:
            if origin.meta.get(key):
                node.meta[key] = origin.meta[key]

    def _check_same(self, old: fx.Node, new: fx.Node, *, any_shape: bool = False) -> None:
        expected, found = old.meta["val"], new.meta["val"]
        if (_shape(old) != _shape(new) and not any_shape) or _dtype(expected) != _dtype(found):
            raise self._different(
                old,
                f"{_dtype(expected)} {_shape(old)}",
                f"{_dtype(found)} {_shape(new)} from {new.target}",
            )

    def _different(self, old: fx.Node, expected: str, found: str) -> InvariantError:
        return InvariantError(
            f"pass {self._step.name} replaced a value by a different one",
            op=str(old.target),
            module=source_of(old).module,
            source=source_of(old).line,
            expected=expected,
            found=found,
            hint=self._step.advice,
        )

    def erase(self, node: fx.Node) -> None:
        """Removes a node without users."""
        self.has_edited = True
        self._graph.erase_node(node)

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
            elif current.op != "call_function" or not is_pure(current):
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
        return self._evaluated(node, self._values)

    def value_with(self, node: fx.Node, instead: Mapping[fx.Node, torch.Tensor]) -> torch.Tensor:
        """What a constant node would be with other tensors in the place of some stored ones."""
        return self._evaluated(node, dict(instead))

    def _evaluated(self, node: fx.Node, known: dict[fx.Node, torch.Tensor]) -> torch.Tensor:
        if node not in known:
            stored = self._draft.constant(node)
            if stored is not None:
                return stored
            args, kwargs = fx.map_arg(
                (node.args, node.kwargs), lambda argument: self._evaluated(argument, known)
            )
            with torch.no_grad():
                known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return known[node]

    def encoding(self, node: fx.Node) -> Encoding | None:
        """How the weight behind a constant placeholder was compressed, if it was."""
        return self._draft.encoding(node)

    def constant_name(self, node: fx.Node) -> str:
        """Qualified name of the stored tensor behind a constant placeholder."""
        return self._draft.constant_name(node)

    def stored(self, name: str) -> fx.Node | None:
        """The placeholder of the parameter, buffer or constant called ``name``."""
        return next((n for n in self.placeholders() if self.constant_name(n) == name), None)

    def keep_buffer(self, node: fx.Node) -> None:
        """Drops the program's writes to the buffer behind ``node``: it is constant from now on."""
        self.has_edited = True
        self._draft.keep_buffer(node)
        self._constant.clear()

    def placeholders(self) -> list[fx.Node]:
        """Parameters, buffers, constants and the call's arguments, in order."""
        return list(self._graph.find_nodes(op="placeholder"))

    def user_inputs(self) -> list[fx.Node]:
        """Placeholders of the call's arguments, in order."""
        return self._draft.user_inputs()


def has_data_sizes(graph: fx.Graph) -> bool:
    """Whether some size of the program is known only when the model runs."""
    return any("unbacked_bindings" in node.meta for node in graph.nodes)


def _is_sized_by_data(node: fx.Node) -> bool:
    values = [node.meta.get("val"), *(n.meta.get("val") for n in node.all_input_nodes)]
    return any(free_unbacked_symbols(value) for value in values if value is not None)


def _chain(anchor: fx.Node, name: str) -> tuple[str, ...]:
    earlier = anchor.meta.get("rewritten_by", ())
    return earlier if earlier and earlier[-1] == name else (*earlier, name)


def _shape(value: object) -> object:
    value = value.meta.get("val") if isinstance(value, fx.Node) else value
    return tuple(value.shape) if isinstance(value, torch.Tensor) else value


def _dtype(value: object) -> object:
    return value.dtype if isinstance(value, torch.Tensor) else type(value)
