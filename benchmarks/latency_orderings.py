"""Which of two forms is faster, as published measurements say, and as the latency model does.

A comparison is wrong beyond the interval where no pair of times within the predicted intervals
would give the published order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.latency_fit import Fit
from benchmarks.latency_programs import (
    TRANSFORMERS,
    Form,
    Transformer,
    block,
    in_parts,
    op,
    transformer,
)
from lowering.planner import OpFacts
from lowering.planner.features import Features, Layers, features_of
from lowering.planner.latency import chip_speeds

_WHOLE = Form("split", masked=False)
_THIRDS = Form("split", 3, masked=False)
_NAIVE = Form(masked=False)
_VIT = Transformer(12, 768, 12, 3072)
_QWEN = TRANSFORMERS["qwen3-0.6b"]


@dataclass(frozen=True)
class Ordering:
    """Two programs of which one is published to be faster.

    Attributes:
        id: of the comparison in the collection of published ones.
        what: the slower one against the faster one.
        chip: chip of the comparison.
        published: slower over faster.
        low: least ratio that agrees.
        high: largest ratio that agrees.
        slower: what it asks of the device, and how many items that serves.
        faster: likewise.
        source: where it is published.
    """

    id: str
    what: str
    chip: str
    published: float
    low: float
    high: float
    slower: tuple[Features, int]
    faster: tuple[Features, int]
    source: str


@dataclass(frozen=True)
class Judged:
    """What the model says of an ordering.

    Attributes:
        ordering: the comparison.
        predicted: slower over faster, per item.
        spread: interval factor of the chip.
    """

    ordering: Ordering
    predicted: float
    spread: float

    @property
    def verdict(self) -> str:
        """``right``, ``within`` the interval, or ``wrong``."""
        low, high = self.ordering.low, self.ordering.high
        if low <= self.predicted <= high:
            return "right"
        reachable = self.predicted * self.spread >= low and self.predicted / self.spread <= high
        return "within" if reachable else "wrong"


# Published comparisons that no prediction can be held against, and why.
NOT_ASKED = {
    "O03": "M1 Max: 15 % of the slower one ran on the CPU, which part is not told",
    "O04": "A15: no fit, and the slower one ran largely off the ANE",
    "O06": "M4 Max: the two ran on different units",
    "O20": "M5 Pro, a private call: int8 weights gain nothing there, and through Core ML they do",
    "O22": "M4: no row tells how int4 scales stream, so they count by their bytes as palettes do",
    "O23": "M3: no fit; what changes is the placement, see the rule quant.int8_palettes",
    "O24": "a Mac whose chip is not told",
    "O28": "M4, Core AI: regions of another compiler; Core ML hands the same network over once",
    "O29": "A19 Pro: no fit",
    "O31": "A19 Pro: no fit",
}


def orderings() -> Iterator[Ordering]:
    """The comparisons that can be predicted."""

    def one(features: Features) -> tuple[Features, int]:
        return features, 1

    def of(ops: Sequence[OpFacts]) -> Features:
        return features_of(ops, ["ane"] * len(ops))

    for tokens in (1, 128, 512):
        size = Transformer(8, 1536, 8, 6144, gated=True, attention=2048, key_heads=1)
        linear, conv = (
            transformer(size, tokens, max(tokens, 512), Form(convolutions=convolutions))
            for convolutions in (False, True)
        )
        yield Ordering(
            "O01", f"1x1 convolutions against linears, {tokens} tokens", "M4", 1.0, 0.95, 1.05,
            one(conv), one(linear), "john-rocky/CoreML-LLM, five pairs, 2026-04-26",
        )  # fmt: skip
    yield Ordering(
        "O07", "naive against split, SigLIP-B/16, batch 16", "M4 Pro", 1.13, 1.0, 1.3,
        one(transformer(_VIT, 196, form=Form(masked=False, batch=16))),
        one(transformer(_VIT, 196, form=Form("split", masked=False, batch=16))),
        "erwinzhang7, 2026",
    )  # fmt: skip
    tiny = TRANSFORMERS["whisper-tiny"]
    yield Ordering(
        "O08", "naive against split heads, Whisper-tiny", "M2 Ultra", 1.27, 1.0, 2.0,
        one(transformer(tiny, 1500, form=_NAIVE)), one(transformer(tiny, 1500, form=_WHOLE)),
        "whisper.cpp pull request 1716, 2024",
    )  # fmt: skip
    # Heads and width are not told; 8 of 64 are assumed.
    cross = Transformer(1, 512, 8, 2048)
    yield Ordering(
        "O10", "whole queries against tiles, attention of 2560 x 2560", "M5 Pro", 2.4, 1.2, 4.0,
        one(transformer(cross, 2560, form=_WHOLE)),
        one(transformer(cross, 2560, form=Form("split", 8, masked=False))), "ANEForge PR 19, 2026",
    )  # fmt: skip
    yield Ordering(
        "O11", "tokens first with transposes against channels first, Whisper-tiny", "M5 Pro", 3.0,
        1.0, 4.0, one(transformer(tiny, 1500, form=_NAIVE)),
        one(transformer(tiny, 1500, form=_WHOLE)), "ANEForge README and PR 13, 2026",
    )  # fmt: skip
    native, opened = (of(block(_QWEN, 1, 2048, Form(open_softmax=x)) * 17) for x in (False, True))
    yield Ordering(
        "O13", "softmax in 5 operators against one, 1 query", "M4", 1.0, 0.98, 1.02,
        one(opened), one(native), "john-rocky/CoreML-LLM, 2026-04-24",
    )  # fmt: skip
    # A decoder of 4-bit weights whose token takes 30 ms.
    decoder = Features((Layers(1e9, 20e6, 1536.0, count=90),), 0.0, 0.0, (), 3)
    yield Ordering(
        "O14", "4 programs against 3", "M4", 1.05, 1.005, 1.07,
        one(in_parts(decoder, 2)), one(decoder), "john-rocky/CoreML-LLM, 2026-04-24",
    )  # fmt: skip
    yield Ordering(
        "O15", "4 programs against 2, Qwen3-0.6B, 128 tokens", "M2", 1.04, 1.02, 1.06,
        one(transformer(_QWEN, 128, form=Form(open_norms=True), programs=4)),
        one(transformer(_QWEN, 128, form=Form(open_norms=True), programs=2)), "eeane 2.1.0, 2026",
    )  # fmt: skip
    image = (1, 512, 64, 64)
    whole = op("conv", image, image, weight=(512, 512, 1, 1))
    part = op("conv", image, (1, 16, 64, 64), weight=(512, 16, 1, 1))
    summed = [op("add", image, image, image)] * 31
    yield Ordering(
        "O17", "32 convolutions of a sum against one", "M5 Pro", 4.0, 1.5, math.inf,
        one(of([part] * 32 + summed)), one(of([whole])), "cadamcat, 2026",
    )  # fmt: skip
    small = (1, 256, 32, 32)
    ops = [op("conv", small, small, weight=(256, 256, 1, 1))]
    ops += [op("instance_norm", small, small), op("gelu", small, small), op("gelu", small, small)]
    yield Ordering(
        "O18", "4 programs of one operator against one of 4", "M5 Pro", 3.65, 1.5, math.inf,
        one(in_parts(of(ops), 4)), one(of(ops)), "ANEForge, 2026-06",
    )  # fmt: skip
    for tokens in (128, 512):
        yield Ordering(
            "O26", f"4 sequences at once against one, {tokens} tokens, each", "M4 Max",
            1.45 if tokens == 128 else 1.1, 1.0, 2.0,
            (transformer(_QWEN, tokens, form=Form(batch=4)), 4), one(transformer(_QWEN, tokens)),
            "john-rocky/CoreML-LLM, 2026-06",
        )  # fmt: skip
    flops = 1e12
    for chip, ratio in (("M4", 1.75), ("M1 Max", 2.7), ("M2 Pro", 3.5), ("M5 Pro", 3.7)):
        yield Ordering(
            "O30", "products of activations against convolutions", chip, ratio, 1 / 0.55, 4.0,
            one(Features((), flops, 0.0, ())), one(Features((Layers(flops, 0, 0),), 0.0, 0.0, ())),
            "ANEForge, 2026-06 to 10",
        )  # fmt: skip


def judge(fit: Fit, spreads: Callable[[str], float]) -> list[Judged]:
    """Every comparison that can be predicted, as ``fit`` ranks it."""
    found = []
    for ordering in orderings():
        speeds = chip_speeds(ordering.chip)
        assert speeds is not None
        each = [
            fit.milliseconds(features, ordering.chip, speeds) / items
            for features, items in (ordering.slower, ordering.faster)
        ]
        found.append(Judged(ordering, each[0] / each[1], spreads(ordering.chip)))
    return found
