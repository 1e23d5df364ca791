"""Which form of one attention is *predicted* to be fastest on a chip."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lowering.planner.facts import OpFacts, TensorFacts
from lowering.planner.features import features_of
from lowering.planner.latency import chip_speeds, fitted, rates
from lowering.planner.prices import price
from lowering.planner.targets import chip_of, platform_of
from passes.attention_choice import AttentionSite, Form, FormChoice
from passes.errors import PassError

# Forms whose predicted times differ by less cost the same; the dispatcher's price decides then.
_TIE = 0.02
_NATIVE_SINCE = 18
_NO_EVIDENCE = {
    "native": "native attention through Core ML was timed by nobody: its parts are counted",
    "tiled": "cut queries were timed in private calls only, where they paid (ANEForge, M5 Pro)",
}


@dataclass(frozen=True)
class _Candidate:
    """One form, and what it costs.

    Attributes:
        form: see ``FormChoice``.
        chunk: queries of a chunk.
        ms: predicted milliseconds, of what the forms differ in and of the products.
        price: the dispatcher's price of the same operators, milliseconds.
        name: in sentences.
    """

    form: Form
    chunk: int
    ms: float
    price: float
    name: str


@functools.cache
def choose_form(site: AttentionSite, target: str, system: str, max_parts: int) -> FormChoice:
    """See ``passes.attention_choice.choose_form``.

    The rates are the chip's own where it has a fit; without one there is nothing to choose by, and
    the form is split.

    Raises:
        PassError: ``system`` names no iOS or macOS.
        UnknownChipError: no such chip.
    """
    platform_of(target)
    chip = chip_of(target)
    number = re.search(r"\d+", str(system))
    if number is None:
        raise PassError("the system has no number", expected="such as iOS18", found=str(system))
    fit = fitted()["chips"].get(chip or "")
    if chip is None or fit is None:
        whole = max_parts >= site.heads
        reason = f"no measured program of {target} backs a prediction; the default form"
        return FormChoice("split" if whole else "batched", site.queries, reason)
    native = int(number.group()) >= _NATIVE_SINCE
    found = [
        _Candidate(form, chunk, _milliseconds(ops, chip), _price(ops, chip), name)
        for form, chunk, name, ops in _forms(site, _chunks(site, chip), native, max_parts)
    ]
    least = min(candidate.ms for candidate in found)
    near = [candidate for candidate in found if candidate.ms <= least * (1 + _TIE)]
    best = min(near, key=lambda candidate: candidate.price)
    return FormChoice(best.form, best.chunk, _reason(best, found, near, chip))


def _chunks(site: AttentionSite, chip: str) -> int:
    """Queries of a chunk of which two tiles of one head stay on the chip; all where they do."""
    speeds = chip_speeds(chip)
    assert speeds is not None  # a chip with a fit has them
    row = 2 * 2 * site.batch * site.keys
    parts = -(-site.queries * row // int(speeds.on_chip_bytes))
    return -(-site.queries // parts) if parts > 1 else site.queries


def _forms(
    site: AttentionSite, chunk: int, native: bool, max_parts: int
) -> Iterator[tuple[Form, int, str, list[OpFacts]]]:
    """Form, queries of a chunk, name and operators of each candidate."""
    yield "batched", site.queries, "batched", _batched(site)
    if site.heads <= max_parts:
        yield "split", site.queries, "split", _split(site, site.queries)
    if chunk < site.queries and site.heads * -(-site.queries // chunk) <= max_parts:
        yield "split", chunk, f"split in tiles of {chunk} queries", _split(site, chunk)
    if native:
        yield "native", site.queries, "native", _native(site)


def _batched(site: AttentionSite) -> list[OpFacts]:
    query, key, value, scores, result = _whole(site)
    attend = [
        _op("matmul", scores, query, key, transpose_y=True),
        *([_op("add", scores, scores)] if site.masked else ()),
        _op("softmax", scores, scores),
        _op("matmul", result, scores, value),
    ]
    if site.groups == site.heads:
        return attend
    # Each group of heads is a product of its own, and the results are joined.
    size = site.heads // site.groups
    one = AttentionSite(
        batch=site.batch,
        heads=size,
        groups=size,
        queries=site.queries,
        keys=site.keys,
        width=site.width,
        value_width=site.value_width,
        masked=site.masked,
    )
    return [*_batched(one) * site.groups, _op("concat", result, result)]


def _split(site: AttentionSite, chunk: int) -> list[OpFacts]:
    batch, keys = site.batch, site.keys
    lengths = [chunk] * (site.queries // chunk)
    lengths += [site.queries % chunk] if site.queries % chunk else []
    image = (batch, site.groups * site.width, 1, keys)
    ops = [_op("transpose", (batch, keys, 1, site.groups * site.width), image)]
    for length in lengths:
        query, scores = (batch, site.width, 1, length), (batch, keys, 1, length)
        key, value = (batch, keys, 1, site.width), (batch, site.value_width, 1, keys)
        result = (batch, site.value_width, 1, length)
        head = [
            _op("einsum", scores, query, key, equation="bchq,bkhc->bkhq"),
            *([_op("add", scores, scores)] if site.masked else ()),
            _op("softmax", scores, scores),
            _op("einsum", result, scores, value, equation="bkhq,bchk->bchq"),
        ]
        ops += head * site.heads
        joined = (batch, site.heads * site.value_width, 1, length)
        ops += [_op("concat", joined, joined)] if site.heads > 1 else []
    whole = (batch, site.heads * site.value_width, 1, site.queries)
    return ops + ([_op("concat", whole, whole)] if len(lengths) > 1 else [])


def _native(site: AttentionSite) -> list[OpFacts]:
    query, key, value, scores, result = _whole(site)
    repeated = [_op("concat", shape, shape) for shape in (key, value)]
    mask = (scores,) if site.masked else ()
    fused = _op("scaled_dot_product_attention", result, query, key, value, *mask)
    # It works on (B, H, S, D), which the channels-first layout comes to by transposes.
    moved = [_op("transpose", shape, shape) for shape in (query, key, value, result)]
    return [*(repeated if site.groups != site.heads else ()), *moved, fused]


def _whole(site: AttentionSite) -> tuple[tuple[int, ...], ...]:
    heads = (site.batch, site.heads)
    return (
        (*heads, site.queries, site.width),
        (*heads, site.keys, site.width),
        (*heads, site.keys, site.value_width),
        (*heads, site.queries, site.keys),
        (*heads, site.queries, site.value_width),
    )


def _op(
    op_type: str, output: tuple[int, ...], *inputs: tuple[int, ...], **attributes: object
) -> OpFacts:
    return OpFacts(
        op_type,
        tuple(TensorFacts(shape, "fp16") for shape in inputs),
        (TensorFacts(output, "fp16"),),
        (),
        attributes,
    )


def _milliseconds(ops: list[OpFacts], chip: str) -> float:
    """Predicted time of what the forms differ in, without the call's own share."""
    speeds, fit = chip_speeds(chip), fitted()["chips"][chip]
    assert speeds is not None  # a chip with a fit has them
    terms = rates().terms(features_of(ops, ["ane"] * len(ops)), speeds, fit["traffic"])
    return float(fit["factor"] * (sum(terms.values()) - terms["host"]))


def _price(ops: list[OpFacts], chip: str) -> float:
    return sum(price(facts, chip)["ane"] or 0.0 for facts in ops)


def _reason(best: _Candidate, found: list[_Candidate], near: list[_Candidate], chip: str) -> str:
    others = ", ".join(f"{c.name} {c.ms:.3g} ms" for c in found if c is not best)
    text = f"predicted {best.ms:.3g} ms on {chip}" + (f", {others}" if others else "")
    if len(near) > 1:
        text += f"; of {len(near)} within {_TIE:.0%} the lowest price ({best.price:.3g} ms)"
    kind = "tiled" if best.name.startswith("split in") else best.form
    return f"{text}; {_NO_EVIDENCE[kind]}" if kind in _NO_EVIDENCE else text
