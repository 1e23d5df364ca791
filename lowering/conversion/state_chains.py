"""Writes to a state that may happen where they stand, not at the end of the program.

An exported program is functional: a buffer that is written three times is a chain of three values,
and the last one is stored. Written out like that each link is a copy of the whole buffer. A link
whose only reader of the whole is the next link, or the store, may write the state at once.
"""

from __future__ import annotations

from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from frontend.ops import slice_update
from lowering.conversion.box_writes import write_box

_WRITES = (slice_update, write_box)

IN_PLACE = "ane_writes_state"
"""Key in a node's ``meta``: the state may be written as soon as the node is computed."""


def mark_state_chains(program: ExportedProgram) -> None:
    """Marks the writes of every buffer whose stored value is a chain of slice updates on it.

    The last write of a chain stays unmarked: it is the one that the program stores.
    """
    signature = program.graph_signature
    placeholders = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    buffers = {
        spec.target: placeholders[spec.arg.name]
        for spec in signature.input_specs
        if spec.kind is InputKind.BUFFER
    }
    results = program.graph.output_node().args[0]
    assert isinstance(results, tuple)
    for spec, result in zip(signature.output_specs, results, strict=True):
        if spec.kind is OutputKind.BUFFER_MUTATION and isinstance(result, fx.Node):
            chain = _chain(result, buffers[spec.target])
            for node in chain[1:]:
                node.meta[IN_PLACE] = True


def _chain(last: fx.Node, buffer: fx.Node) -> list[fx.Node]:
    """From ``last`` up to the first write of ``buffer``; empty where something else is between."""
    chain: list[fx.Node] = []
    node = last
    while node is not buffer:
        source = node.args[0] if node.target in _WRITES else None
        if not isinstance(source, fx.Node):
            return []
        if any(later.args[0] is not node for later in chain[-1:]):
            return []
        chain.append(node)
        node = source
    return chain if all(_is_written_once(node, chain) for node in [*chain, buffer]) else []


def _is_written_once(node: fx.Node, chain: list[fx.Node]) -> bool:
    """True if no second chain starts at ``node``: it would need the value as it was."""
    writers = [user for user in node.users if user.target in _WRITES and user.args[0] is node]
    return all(writer in chain for writer in writers)
