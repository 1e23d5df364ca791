"""What coremltools could not convert, with the operator and the line that it stopped at."""

from __future__ import annotations

import traceback

from coremltools.converters.mil.frontend.torch.internal_graph import InternalTorchIRNode
from coremltools.converters.mil.mil import Operation
from torch import fx

from frontend.errors import kind_and_line
from frontend.source import source_of
from lowering.errors import LoweringError


def stock_failure(error: Exception, graph: fx.Graph) -> LoweringError:
    """The error to raise for what ct.convert raised on ``graph``.

    An assertion of coremltools has no words: its kind stands for them.
    """
    node = _stopped_at(error, graph)
    said = str(error) or kind_and_line(error)
    message = f"coremltools could not convert the program: {said}"
    if node is None:
        return LoweringError(message)
    return LoweringError(
        message,
        op=f"{node.target} ({node.name})",
        source=str(source_of(node)),
        hint="write it with other operators, or bind it with lowering.composite(...)",
    )


def _stopped_at(error: Exception, graph: fx.Graph) -> fx.Node | None:
    """The operator that coremltools' innermost converter or pass was busy with."""
    by_name = {node.name: node for node in graph.nodes}
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for busy_with in (frame.f_locals.get("node"), frame.f_locals.get("op")):
            if isinstance(busy_with, InternalTorchIRNode | Operation):
                found = by_name.get(busy_with.name, found)
    return found
