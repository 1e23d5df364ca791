"""Our lowerings in coremltools' torch registry, for the time of one conversion.

coremltools finds a lowering by a sanitised name in a process-wide table, in which overloads
share an entry and results are not checked. While a program is converted, each name the program
uses leads here instead: the overload picks its own lowering, or coremltools' one where we have
none, and the result is held against the shape and dtype that torch computed. Afterwards the
table is exactly as it was, so nothing leaks into the user's own use of coremltools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from coremltools.converters.mil.frontend.torch.converter import TranscriptionContext
from coremltools.converters.mil.frontend.torch.internal_graph import InternalTorchIRNode
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from coremltools.converters.mil.frontend.torch.utils import (
    sanitize_op_kind,
    unify_inplace_and_functional,
)
from torch import fx
from torch._ops import OpOverload

from frontend.errors import AnePassesError
from frontend.source import source_of
from lowering.conversion.builder import Lowering, MilBuilder, bound_arguments
from lowering.conversion.conform import conform
from lowering.conversion.torch_ops.recurrent import STOCK_SEQUENCES
from lowering.errors import LoweringError
from passes.patterns.nodes import Target

Handler = Callable[[Any, Any], None]
Table = Mapping[Any, Lowering]


def kinds_of(target: Target) -> tuple[str, ...]:
    """The names under which coremltools looks up ``target``: when reading, when lowering."""
    name = target.name() if isinstance(target, OpOverload) else getattr(target, "__name__", "")
    first = sanitize_op_kind(name or str(target))
    return first, unify_inplace_and_functional(sanitize_op_kind(first))


def stock_lowering(target: Target) -> Handler | None:
    """The lowering of ``target`` that is in coremltools' table now."""
    if target in STOCK_SEQUENCES:
        return _TORCH_OPS_REGISTRY.name_to_func_mapping.get(STOCK_SEQUENCES[target][0])
    return _TORCH_OPS_REGISTRY.name_to_func_mapping.get(kinds_of(target)[1])


@contextmanager
def installed(graph: fx.Graph, table: Table, by_node: Mapping[str, Lowering]) -> Iterator[None]:
    """Route every operator of ``graph`` through ``table``; restores coremltools' table on exit.

    The caller holds the conversion lock: the table is shared by the whole process.

    Args:
        graph: the program's graph, as coremltools will read it.
        table: operator overload to lowering.
        by_node: FX node name to lowering, first choice for that node.
    """
    nodes = {node.name: node for node in graph.nodes if node.op == "call_function"}
    mapping = _TORCH_OPS_REGISTRY.name_to_func_mapping
    before = dict(mapping)

    def handle(context: TranscriptionContext, internal_node: InternalTorchIRNode) -> None:
        node = nodes[internal_node.name]
        ours = by_node.get(node.name) or table.get(node.target)
        try:
            if ours is None or not _lower(ours, context, node):
                _lower_stock(before, context, internal_node, node.target)
            conform(context, node)
        except LoweringError as error:
            error.node = node.name
            raise
        except AnePassesError:
            raise
        except Exception as error:
            raise _explained(error, node, ours is not None) from error

    try:
        for node in nodes.values():
            for kind in kinds_of(node.target):
                mapping[kind] = handle
        yield
    finally:
        mapping.clear()
        mapping.update(before)


def _lower(lower: Lowering, context: TranscriptionContext, node: fx.Node) -> bool:
    """Whether ``lower`` took the node; ``NotImplemented`` leaves it to coremltools."""
    mb = MilBuilder(node)
    if isinstance(node.target, OpOverload):
        positional, keywords = bound_arguments(node, lambda argument: context[argument.name])
    else:  # one of Python's own, on sizes
        positional = list(fx.map_arg(node.args, lambda argument: context[argument.name]))
        keywords = {}
    result = lower(mb, *positional, **keywords)
    if result is NotImplemented:
        return False
    mb.give_name(result)
    context.add(result, torch_name=node.name)
    return True


def _lower_stock(
    stock: Mapping[str, Handler],
    context: TranscriptionContext,
    internal_node: InternalTorchIRNode,
    target: Target,
) -> None:
    if target not in STOCK_SEQUENCES:
        lower = stock.get(kinds_of(target)[1])
        if lower is None:
            raise LoweringError(f"no lowering of {target} takes these arguments", op=str(target))
        lower(context, internal_node)
        return
    # Written for TorchScript, where each result has a name of its own.
    kind, count = STOCK_SEQUENCES[target]
    name = internal_node.name
    internal_node.outputs = [name, *(f"{name}_result_{index}" for index in range(1, count))]
    stock[kind](context, internal_node)
    results = tuple(context[output] for output in internal_node.outputs)
    context.add(results, torch_name=name, override=True)


def _explained(error: Exception, node: fx.Node, ours: bool) -> LoweringError:
    origin = source_of(node)
    explained = LoweringError(
        f"{node.target} could not be lowered to MIL: {str(error) or type(error).__name__}",
        op=f"{node.target} ({node.name})",
        module=origin.module,
        source=origin.line,
        hint=None
        if ours
        else "coremltools' own lowering failed; bind one with lowering.composite(...)",
    )
    explained.node = node.name
    return explained
