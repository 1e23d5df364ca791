"""All models of the zoo, by family."""

from __future__ import annotations

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.llm import LLM
from benchmarks.zoo.multimodal import DIFFUSION, MULTIMODAL
from benchmarks.zoo.plain import PLAIN
from benchmarks.zoo.speech import SPEECH
from benchmarks.zoo.text import TEXT
from benchmarks.zoo.timm_models import TIMM
from benchmarks.zoo.vision import VISION

FAMILIES: dict[str, tuple[Entry, ...]] = {
    "text": TEXT,
    "llm": LLM,
    "speech": SPEECH,
    "vision": VISION,
    "timm": TIMM,
    "multimodal": MULTIMODAL,
    "diffusion": DIFFUSION,
    "plain": PLAIN,
}


def entries() -> dict[str, tuple[str, Entry]]:
    """Name to (family, entry), in order.

    Raises:
        ValueError: two entries have one name.
    """
    found: dict[str, tuple[str, Entry]] = {}
    for family, members in FAMILIES.items():
        for entry in members:
            if entry.name in found:
                raise ValueError(f"the zoo has two models named {entry.name}")
            found[entry.name] = (family, entry)
    return found
