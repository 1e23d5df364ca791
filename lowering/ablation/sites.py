"""The places of a model that may take different forms, in groups that cost the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import fx
from torch.export import ExportedProgram

from frontend.source import source_of
from passes.base import Forms, Pass
from passes.forms import Sites
from passes.pipeline import run

# Groups of one option that are worth trying one by one: those with the most sites.
MOST_GROUPS = 4


def sites_of(program: ExportedProgram, pipeline: Sequence[Pass]) -> Sites:
    """Sites of each option by the sizes they work on, where there is more than one size.

    Sites of one size cost the same, so they are decided together. Modules with sites of two
    sizes are left out, since a pass is told its sites by module.

    Args:
        program: the captured model.
        pipeline: the default passes; each option's sites are looked for right before its pass.
    """
    found: dict[str, Mapping[str, tuple[str, ...]]] = {}
    for place, step in enumerate(pipeline):
        forms = step.forms
        if forms is None or not forms.sites or not step.by_site or forms.option in found:
            continue
        before, _ = run(program, pipeline[:place])
        groups = _groups(before.graph, forms)
        if len(groups) > 1:
            found[forms.option] = groups
    return found


def _groups(graph: fx.Graph, forms: Forms) -> dict[str, tuple[str, ...]]:
    by_module: defaultdict[str, set[str]] = defaultdict(set)
    for target in forms.sites:
        for node in graph.find_nodes(op="call_function", target=target):
            by_module[source_of(node).module].add(forms.size(node))
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for module, sizes in by_module.items():
        if len(sizes) == 1:
            groups[sizes.pop()].append(module)
    largest = sorted(groups, key=lambda group: -len(groups[group]))[:MOST_GROUPS]
    return {group: tuple(groups[group]) for group in largest}
