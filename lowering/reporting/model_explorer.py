"""The program for Model Explorer: its graph JSON, with placement and prices on every node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from lowering.planner.result import OpPlan
from lowering.reporting.result import Report
from lowering.reporting.tables import shape_text

# Readable in Model Explorer's light theme, the only one it has.
_COLOURS = {"ane": "#d5e8fb", "cpu": "#fde7c4"}


def graph_json(report: Report) -> dict[str, Any]:
    """A collection of one graph: a node per operator, nested by module path.

    *Documented* (Model Explorer's ``GraphCollection``, ``Graph`` and ``GraphNode``): nodes have an
    identifier, a label, a namespace with slashes, attributes that are texts, incoming edges and a
    style. Device and price are *predicted*, and their keys say so.
    """
    feeds: dict[int, list[int]] = defaultdict(list)
    for source, target in report.edges:
        feeds[target].append(source)
    nodes = [
        {
            "id": str(index),
            "label": op.op_type,
            "namespace": op.source.module.replace(".", "/"),
            "attrs": [{"key": k, "value": v} for k, v in _attributes(op).items() if v],
            "incomingEdges": [
                {"sourceNodeId": str(s), "sourceNodeOutputId": "0", "targetNodeInputId": str(place)}
                for place, s in enumerate(feeds[index])
            ],
            "outputsMetadata": [
                {"id": "0", "attrs": [{"key": "shape", "value": shape_text(op.figures.shape)}]}
            ],
            "style": {"backgroundColor": _COLOURS[op.device]},
        }
        for index, op in enumerate(report.plan.ops)
    ]
    return {"label": report.package.name, "graphs": [{"id": "main", "nodes": nodes}]}


def _attributes(op: OpPlan) -> Mapping[str, str]:
    return {
        "name": op.name,
        "device (predicted)": op.device,
        "why not on the ANE": op.reason.sentence if op.reason else "",
        "price, ms (predicted)": f"{op.chosen_ms:.6f}",
        "source": op.source.line,
        "passes": ", ".join(op.source.passes),
        "layout": op.figures.layout,
        "padding": f"{op.figures.padding:.0%}",
        "working set": f"{op.figures.working_set_bytes / 1e6:.2f} MB",
    }
