"""What a package says about its own making."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

import coremltools as ct
from coremltools.converters.mil.mil.scope import ScopeSource

from frontend.json_text import parse
from frontend.source import Source, source_of
from lowering.conversion.distinct_outputs import package_name
from lowering.conversion.prepare import Prepared
from lowering.conversion.stored_states import StoredState
from lowering.package.metadata_entry import PREFIX, reading
from lowering.package.source_table import SOURCES_KEY, SourceTable
from passes.base import Pass
from passes.pipeline import PassReport
from passes.pipeline_text import to_json

PIPELINE_KEY = PREFIX + "pipeline"
STATES_KEY = PREFIX + "states"
# coremltools stamps the day of conversion, which would make equal packages differ.
_DATE_KEY = "com.github.apple.coremltools.conversion_date"


def describe(
    mlmodel: ct.models.MLModel,
    prepared: Prepared,
    pipeline: Sequence[Pass],
    reports: Sequence[PassReport],
) -> None:
    """Write versions, pipeline, pass counts and the sources table into ``mlmodel``.

    Keys: ``com.ane-passes.version``, ``.torch``, ``.pipeline`` (see ``passes.pipeline_text``),
    ``.passes`` (JSON, pass name to rewrites and refusals), ``.states`` (JSON list of
    ``StoredState`` fields) and ``.sources``.
    """
    described = mlmodel.user_defined_metadata
    if _DATE_KEY in described:
        del described[_DATE_KEY]
    described[PREFIX + "version"] = metadata.version("ane-passes")
    described[PREFIX + "torch"] = metadata.version("torch")
    described[PREFIX + "coremltools"] = metadata.version("coremltools")
    if pipeline:
        described[PIPELINE_KEY] = to_json(pipeline)
    if reports:
        counts = [
            {"name": r.name, "rewrites": r.rewrites, "declined": len(r.declined)} for r in reports
        ]
        described[PREFIX + "passes"] = json.dumps(counts)
    if prepared.stored:
        described[STATES_KEY] = json.dumps([asdict(state) for state in prepared.stored])
    described[SOURCES_KEY] = sources_of(mlmodel, prepared).to_metadata()
    for function in mlmodel._mil_program.functions.values():
        # With this mark ``mlmodel.save`` writes a mapping for ExecuTorch into the package.
        function._essential_scope_sources.remove(ScopeSource.EXIR_DEBUG_HANDLE)


def stored_in(metadata: Mapping[str, str], buffers: Iterable[str]) -> list[StoredState]:
    """How a package keeps ``buffers``; as they are, where its metadata does not say."""
    with reading(STATES_KEY, "list of states", "JSON, as convert writes it"):
        entries = parse(metadata.get(STATES_KEY, "[]"))
        known = {entry["buffer"]: StoredState(**entry) for entry in entries}
    return [known.get(name, StoredState(package_name(name), name)) for name in buffers]


def sources_of(mlmodel: ct.models.MLModel, prepared: Prepared) -> SourceTable:
    """The sources of every MIL op of a freshly converted model.

    coremltools names part of its ops after their type; those whose name would lead to the wrong
    node, or to none, get an entry under their own name.
    """
    nodes = {node.name: node for node in prepared.program.graph.nodes}
    by_node: dict[str, Source] = {}
    origins = list(_origins(mlmodel._mil_program, prepared.handles))
    for _, node_name in origins:
        if node_name not in by_node:
            by_node[node_name] = source_of(nodes[node_name])
    table = SourceTable(by_node)
    aliases = {
        mil_name: by_node[node_name]
        for mil_name, node_name in origins
        if table.key_of(mil_name) != node_name
    }
    return SourceTable({**by_node, **aliases})


def _origins(program: Any, handles: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """MIL op name and FX node name, for every op but constants."""
    for function in program.functions.values():
        for op in function.operations:
            if op.op_type == "const":
                continue
            for handle in op.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE, ()):
                if isinstance(handle, int):
                    yield op.name, handles[handle]
                    break
