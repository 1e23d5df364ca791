"""Which form one attention takes on one chip: the question, and who answers it.

What chips can do is known to a layer above this one, so the answer is asked for by name, and only
where a target is given.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import fx

from frontend.schema import arguments
from passes.attention_mask import masks_nothing
from passes.errors import PassError
from passes.patterns.nodes import is_static, shape
from passes.rewriter import Rewriter

Form: TypeAlias = Literal["split", "batched", "native"]
# Takes a site, a chip, a system such as iOS18, and the most parts that the site may be cut into.
Chooser: TypeAlias = "Callable[[AttentionSite, str, str, int], FormChoice]"
_CHOOSER = "lowering.planner.attention_form:choose_form"


@dataclass(frozen=True)
class AttentionSite:
    """Sizes of one attention, all static.

    Attributes:
        batch: B.
        heads: heads of the queries.
        groups: heads of keys and values.
        queries: length of the queries.
        keys: length of keys and values.
        width: D of queries and keys.
        value_width: D of values.
        masked: a mask is added to the scores.
    """

    batch: int
    heads: int
    groups: int
    queries: int
    keys: int
    width: int
    value_width: int
    masked: bool


@dataclass(frozen=True)
class FormChoice:
    """The form of one attention.

    Attributes:
        form: as ``SplitAttention`` calls it.
        query_chunk: queries of a chunk of ``split``; all of them for a single chunk.
        reason: why, in a sentence without its subject.
    """

    form: Form
    query_chunk: int
    reason: str

    def named(self, site: AttentionSite) -> str:
        """The form in words."""
        if self.form == "split" and self.query_chunk < site.queries:
            return f"split in chunks of {self.query_chunk} queries"
        return self.form


def site_of(rw: Rewriter, node: fx.Node) -> AttentionSite | None:
    """The sizes of a fused attention of rank 3 or 4; ``None`` where one is dynamic."""
    query, key, value, mask, _, is_causal, _, _ = arguments(node).values()
    if not all(is_static(tensor) for tensor in (query, key, value)):
        return None
    heads, groups = (shape(t)[1] if len(shape(t)) == 4 else 1 for t in (query, key))
    return AttentionSite(
        batch=shape(query)[0],
        heads=heads,
        groups=groups,
        queries=shape(query)[-2],
        keys=shape(key)[-2],
        width=shape(query)[-1],
        value_width=shape(value)[-1],
        masked=is_causal or not (mask is None or masks_nothing(rw, mask)),
    )


def choose_form(site: AttentionSite, target: str, system: str, max_parts: int) -> FormChoice:
    """The form that is *predicted* to be fastest on ``target``.

    Args:
        site: the sizes.
        target: chip, such as ``"M4"``.
        system: oldest system of the package, such as ``"iOS18"``; native attention needs that.
        max_parts: most heads times chunks.

    Raises:
        PassError: the predictions are not installed, or ``system`` names none.
        UnknownChipError: no such chip.
    """
    try:
        chooser: Chooser = pkgutil.resolve_name(_CHOOSER)
    except ImportError as error:
        raise PassError(
            "no predictions are installed to choose the form of attention by",
            expected="the package `lowering` beside `passes`",
            found=str(error),
            hint="leave target out",
        ) from error
    return chooser(site, target, system, max_parts)
