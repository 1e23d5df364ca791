"""Passes under the names of 0.1: code that uses them is warned, texts are read as they are.

Packages and pipeline files of 0.1 are texts. Everything here goes with the next release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frontend.deprecated import warn_renamed

CLASSES = {
    "ChannelNorm": "FuseLayerNorm",
    "RankLogits": "TopkOfLogits",
    "RemoveDropout": "ToInference",
}

NAMES = {
    "channel_norm": "fuse_layer_norm",
    "rank_logits": "topk_of_logits",
    "remove_dropout": "to_inference",
}

# Options by the class that has them now.
OPTIONS = {"LimitRank": {"most": "max_rank"}}


def options_now(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` of the class ``name`` as they are called now."""
    new = OPTIONS.get(name, {})
    return {new.get(option, option): value for option, value in options.items()}


def name_now(name: str) -> str:
    """What the pass ``name`` is called now; warns where that is something else."""
    if name in NAMES:
        warn_renamed(f"the pass {name}", NAMES[name], stacklevel=4)
    return NAMES.get(name, name)
