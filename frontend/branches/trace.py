"""What the running export has recorded: values known already, equal expressions, earlier values.

The branch explorer asks three things of the graph that ``torch.export`` is recording, all of
them only once a tensor has been asked for its truth value:

* which expression a tensor holds, so that one condition written twice is decided once;
* its value, where it depends on constants alone;
* the value some tensor had *before* the first run, for undoing writes in place.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import (
    disable_proxy_modes_tracing,
    get_proxy_mode,
    get_proxy_slot,
    has_proxy_slot,
    track_tensor_tree,
)
from torch.utils._python_dispatch import _disable_current_modes

from frontend.random_calls import UNINITIALISED, draws_random
from frontend.schema import arguments, written

aten = torch.ops.aten
# A constant condition is worth computing while tracing up to this many elements per tensor;
# beyond it the condition is treated as data, which is as correct and costs both sides.
LARGEST_CONSTANT = 1 << 24
# Random in training only: the dropout pass turns them into identities.
_DROPOUT = frozenset({aten.dropout, aten.feature_dropout, aten.native_dropout, aten.alpha_dropout})
# These write running statistics, though their schemas do not say so, if this argument is true.
_UPDATES_STATISTICS = {
    aten.batch_norm: "training",
    aten.native_batch_norm: "training",
    aten.instance_norm: "use_input_stats",
}
# Written in place by their schema, though no value changes.
_HARMLESS_WRITES = frozenset({aten.detach_})


class Trace:
    """The graph being recorded, read from the moment of construction on."""

    def __init__(self) -> None:
        mode = get_proxy_mode()
        self._tracer: Any = mode.tracer if mode is not None else None
        self._start = self._last_node()
        self._scanned = self._start
        self._writes = 0
        # Both per node: how many writes in place came before it, and a number that two nodes
        # share when they compute the same from the same.
        self._epoch: dict[fx.Node, int] = {}
        self._number: dict[fx.Node, int] = {}
        self._numbers: dict[Hashable, int] = {}
        # What does not depend on data, with the number of writes to its memory before it: the
        # node holds the tensor's value until the next one.
        self._constant: dict[fx.Node, int] = {}
        self._writes_to: Counter[int] = Counter()  # by storage

    def is_recording(self) -> bool:
        """Whether operators called now are recorded in this graph."""
        mode = get_proxy_mode()
        return mode is not None and mode.tracer is self._tracer

    def mark_source(self, tensor: Tensor, stack: str) -> None:
        """Notes that the node of ``tensor`` stands for the user's code at ``stack``."""
        node = self.node_of(tensor)
        if node is not None:
            node.meta["stack_trace"] = stack

    def node_of(self, tensor: Tensor) -> fx.Node | None:
        """The node that computes ``tensor``, None where the graph does not have it."""
        if self._tracer is None or not has_proxy_slot(tensor, self._tracer):
            return None
        return get_proxy_slot(tensor, self._tracer).proxy.node

    def expression(self, tensor: Tensor) -> Hashable | None:
        """A key that two tensors share only if they hold the same value now."""
        self._scan()
        node = self.node_of(tensor)
        if node is None or self._epoch.get(node) != self._writes:
            return None
        return self._number[node]

    def known_value(self, tensor: Tensor) -> Tensor | None:
        """The value of ``tensor`` where it does not depend on data, else None."""
        if not isinstance(tensor, FakeTensor):
            return tensor
        if tensor.constant is not None:
            return tensor.constant
        self._scan()
        node = self.node_of(tensor)
        return self._evaluate(node) if node is not None and self._is_known(node) else None

    def before(self, tensor: Tensor, node: fx.Node | None) -> Tensor:
        """A copy of ``tensor`` as it was at construction, when ``node`` computed it.

        The copy is recorded at the start, ahead of every write, and only when asked for.
        """
        if self._tracer is None or node is None or self._start is None:
            return tensor.clone()
        with disable_proxy_modes_tracing():
            copy = tensor.clone()
        with self._tracer.graph.inserting_after(self._start):
            proxy = self._tracer.create_proxy(
                "call_function", aten.clone.default, (fx.Proxy(node, self._tracer),), {}
            )
        track_tensor_tree(copy, proxy, constant=None, tracer=self._tracer)
        return copy

    def position(self) -> fx.Node | None:
        """The last node recorded so far."""
        return self._last_node()

    def discard(self, since: fx.Node | None, keep: Iterable[Tensor]) -> None:
        """Erases what was recorded after ``since`` but for what computes ``keep``.

        Nothing is erased if it wrote to state, or made a size that depends on data.
        """
        if self._tracer is None or since is None:
            return
        self._scan()
        nodes = []
        node = since.next
        while node.op != "root":
            nodes.append(node)
            node = node.next
        if any(_writes_in_place(n) or "unbacked_bindings" in n.meta for n in nodes):
            return
        kept = {self.node_of(tensor) for tensor in keep}
        for node in reversed(nodes):
            # The tracer keeps the nodes of sizes for later use.
            if node not in kept and not node.users and _holds_tensors(node):
                self._tracer.graph.erase_node(node)
                self._constant.pop(node, None)
                del self._epoch[node], self._number[node]
        self._scanned = self._last_node()

    def random_node(self) -> fx.Node | None:
        """The first node recorded since construction that draws random numbers."""
        self._scan()
        return next((node for node in self._epoch if _is_random(node)), None)

    def statistics_node(self) -> fx.Node | None:
        """The first node recorded since construction that updates running statistics."""
        self._scan()
        return next((node for node in self._epoch if _updates_statistics(node)), None)

    def foreign_write(self, watched: set[int]) -> fx.Node | None:
        """The first write in place, since construction, to a tensor from outside ``forward``.

        Args:
            watched: the storages (``storage_id``) whose writes are known of.
        """
        self._scan()
        outside = {
            storage_id(value)
            for node in self._tracer.graph.nodes
            if node.op in ("placeholder", "get_attr")
            and isinstance(value := node.meta.get("val"), Tensor)
        }
        for node in filter(_writes_in_place, self._epoch):
            for argument in written_arguments(node):
                value = argument.meta.get("val")
                if isinstance(value, Tensor) and storage_id(value) in outside - watched:
                    return node
        return None

    def _last_node(self) -> fx.Node | None:
        if self._tracer is None or not self._tracer.graph.nodes:
            return None
        return next(iter(reversed(self._tracer.graph.nodes)))

    def _scan(self) -> None:
        """Number the nodes recorded since the last scan: linear in the graph, over all calls."""
        if self._tracer is None:
            return
        node = self._scanned.next if self._scanned else next(iter(self._tracer.graph.nodes), None)
        while node is not None and node.op != "root":
            self._visit(node)
            self._scanned = node
            node = node.next

    def _visit(self, node: fx.Node) -> None:
        constant = node.op == "get_attr" or self._computes_constant(node)
        if _writes_in_place(node):
            self._writes += 1
            for written in written_arguments(node):
                self._writes_to.update(_storages(written))
        self._epoch[node] = self._writes
        if not _is_pure(node):
            self._number[node] = self._intern(node)
        else:
            key = _frozen((node.args, node.kwargs), lambda arg: self._argument(arg, node))
            self._number[node] = self._intern((node.target, key, self._writes))
        if constant:
            self._constant[node] = self._writes_before(node)

    def _argument(self, argument: fx.Node, user: fx.Node) -> Hashable:
        # Across a write, equal expressions may have come apart: only the node itself is itself.
        same_epoch = self._epoch.get(argument) == self._epoch[user]
        return self._number[argument] if same_epoch else argument

    def _intern(self, key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _is_known(self, node: fx.Node) -> bool:
        """Whether the node's tensor does not depend on data and holds the node's value still."""
        return self._constant.get(node) == self._writes_before(node)

    def _writes_before(self, node: fx.Node) -> int:
        return sum(self._writes_to[storage] for storage in _storages(node))

    def _computes_constant(self, node: fx.Node) -> bool:
        if not _is_pure(node) and not _writes_tensors(node):
            return False
        value = node.meta.get("val")
        sizes = value.shape if isinstance(value, Tensor) else ()
        if not all(isinstance(size, int) for size in sizes):
            return False
        if isinstance(value, Tensor) and value.numel() > LARGEST_CONSTANT:
            return False
        return all(self._is_known(argument) for argument in node.all_input_nodes)

    def _evaluate(self, node: fx.Node) -> Tensor:
        needed, stack = {node}, [node]
        while stack:
            for argument in stack.pop().all_input_nodes:
                if argument not in needed:
                    needed.add(argument)
                    stack.append(argument)
        values: dict[fx.Node, Any] = {}
        with _disable_current_modes(), torch.no_grad():
            for step in self._tracer.graph.nodes:
                if step in needed:
                    values[step] = self._evaluate_step(step, values)
        return values[node]

    def _evaluate_step(self, node: fx.Node, values: dict[fx.Node, Any]) -> object:
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(self._tracer.root)
            return value.clone() if isinstance(value, Tensor) else value  # a step may write to it
        if node.target in (aten.lift_fresh_copy.default, aten.detach_.default):
            return values[node.all_input_nodes[0]].clone()
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda arg: values[arg])
        assert callable(node.target)
        return node.target(*args, **kwargs)


def storage_id(tensor: Tensor) -> int:
    """Equal for tensors that share memory."""
    return tensor.untyped_storage()._cdata


def written_arguments(node: fx.Node) -> list[fx.Node]:
    """The arguments that a call writes in place; of a call that cannot say so, all."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.all_input_nodes
    values = written(node.target, node.args, node.kwargs)
    return [value for value in values if isinstance(value, fx.Node)]


def _holds_tensors(node: fx.Node) -> bool:
    leaves = torch.utils._pytree.tree_leaves(node.meta.get("val"))
    return bool(leaves) and all(isinstance(leaf, Tensor) for leaf in leaves)


def _updates_statistics(node: fx.Node) -> bool:
    flag = _UPDATES_STATISTICS.get(_packet(node))
    if flag is None:
        return False
    given = arguments(node)
    return bool(given.get(flag)) and given.get("running_mean") is not None


def _packet(node: fx.Node) -> Any:
    return getattr(node.target, "overloadpacket", node.target)


def _writes_in_place(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target is operator.getitem:
        return False
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.is_mutable and _packet(node) not in _HARMLESS_WRITES
    # A higher-order operator may hold a write.
    return isinstance(node.target, torch._ops.HigherOrderOperator)


def _writes_tensors(node: fx.Node) -> bool:
    """Whether it writes in place, and nothing that it computes is unknown."""
    is_operator = isinstance(node.target, torch._ops.OpOverload)
    return is_operator and _writes_in_place(node) and not _is_random(node)


def _storages(node: fx.Node) -> list[int]:
    leaves = torch.utils._pytree.tree_leaves(node.meta.get("val"))
    return [storage_id(leaf) for leaf in leaves if isinstance(leaf, Tensor)]


def _is_pure(node: fx.Node) -> bool:
    if node.op != "call_function" or _writes_in_place(node):
        return False
    if isinstance(node.target, torch._ops.OpOverload):
        return not _is_random(node) and _packet(node) not in UNINITIALISED
    return node.target is operator.getitem


def _is_random(node: fx.Node) -> bool:
    return draws_random(node) and _packet(node) not in _DROPOUT


def _frozen(value: object, of_node: Callable[[fx.Node], Hashable]) -> Hashable:
    """``value`` as a hashable key; numbers keep their type, since 1, 1.0 and True compare equal."""
    if isinstance(value, fx.Node):
        return ("node", of_node(value))
    if isinstance(value, tuple | list):
        return tuple(_frozen(item, of_node) for item in value)
    if isinstance(value, dict):
        return tuple((key, _frozen(item, of_node)) for key, item in value.items())
    if isinstance(value, slice):
        return ("slice", _frozen((value.start, value.stop, value.step), of_node))
    return (type(value), repr(value) if isinstance(value, float) else value)
