"""The places of a model that may take different forms, in groups that cost the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx
from torch.export import ExportedProgram

from frontend.ops import rms_norm
from frontend.source import source_of
from passes.base import Pass
from passes.linear_to_conv1x1 import LinearToConv1x1
from passes.patterns.nodes import Target, aten, shape
from passes.pipeline import run
from passes.rms_norm_form import RmsNormForm
from passes.split_attention import SplitAttention

# Option to group to the module paths of its sites.
Sites = Mapping[str, Mapping[str, tuple[str, ...]]]
# Groups of one option that are worth trying one by one: those with the most sites.
MOST_GROUPS = 4


def _attention(node: fx.Node) -> str:
    query, key = (shape(argument) for argument in node.args[:2])  # type: ignore[arg-type]
    heads = query[1] if len(query) == 4 else 1
    return f"{query[-2]} x {key[-2]} tokens, {heads} heads of {query[-1]}"


def _norm(node: fx.Node) -> str:
    return " x ".join(str(size) for size in shape(node))


def _linear(node: fx.Node) -> str:
    outputs, inputs = shape(node.args[1])  # type: ignore[arg-type]
    return f"{inputs} to {outputs}"


_OPTIONS: dict[str, tuple[type[Any], Any, Callable[[fx.Node], str]]] = {
    "attention": (SplitAttention, aten.scaled_dot_product_attention.default, _attention),
    "rms_norm": (RmsNormForm, rms_norm, _norm),
    "linear": (LinearToConv1x1, aten.linear.default, _linear),
}


def sites_of(program: ExportedProgram, pipeline: Sequence[Pass]) -> Sites:
    """Sites of each option by the sizes they work on, where there is more than one size.

    Sites of one size cost the same, so they are decided together. Modules with sites of two
    sizes are left out, since a pass is told its sites by module.

    Args:
        program: the captured model.
        pipeline: the default passes; each option's sites are looked for right before its pass.
    """
    found: dict[str, Mapping[str, tuple[str, ...]]] = {}
    for option, (kind, target, size) in _OPTIONS.items():
        places = [place for place, step in enumerate(pipeline) if isinstance(step, kind)]
        if not places:
            continue
        before, _ = run(program, pipeline[: places[0]])
        groups = _groups(before.graph, target, size)
        if len(groups) > 1:
            found[option] = groups
    return found


def _groups(
    graph: fx.Graph, target: Target, size: Callable[[fx.Node], str]
) -> dict[str, tuple[str, ...]]:
    by_module: defaultdict[str, set[str]] = defaultdict(set)
    for node in graph.find_nodes(op="call_function", target=target):
        by_module[source_of(node).module].add(size(node))
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for module, sizes in by_module.items():
        if len(sizes) == 1:
            groups[sizes.pop()].append(module)
    largest = sorted(groups, key=lambda group: -len(groups[group]))[:MOST_GROUPS]
    return {group: tuple(groups[group]) for group in largest}
