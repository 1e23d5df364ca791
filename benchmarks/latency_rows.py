"""Turns published latencies into rows that the latency model can be fitted on.

    python -m benchmarks.latency_rows benchmarks/data/measured_latency.json CALIBRATION.json...

Only rows of kind ``measured`` are taken, of whole programs run through Core ML with the ANE, and
private calls of the ANE that were timed beside such a row. What a program asks of the device is
found from the operators of the same architecture in the form that was measured: image models are
built with transformers and converted, the others are written down layer by layer. A row whose
architecture or input size is not published, or whose placement is in doubt, is left out, with the
reason.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.latency_programs import (
    IMAGE_MODELS,
    TRANSFORMERS,
    Form,
    Transformer,
    chain,
    image_model,
    transformer,
)
from lowering.planner import chip_names
from lowering.planner.features import Features, Layers

# The later gpt2 rows say so; the earlier ones come from the same models.
_KV_CACHE = 512
# The next-token rows do not print their length. Assumed: the prompt window of the gpt2 models,
# which have a cache, and the full window of the pythia models, which have none (the repository's
# model code). Its base gpt2 keeps layer_norm in fp32, so part of it runs on the CPU. These rows are
# predicted and shown, but neither fitted on nor scored.
_PROMPT_WINDOW = 128


def _stored(features: Features, share: float) -> Features:
    layers = tuple(
        replace(layer, weight_bytes=layer.weight_bytes * share) for layer in features.layers
    )
    return replace(features, layers=layers)


def weight_share(variant: str) -> float:
    """Stored bytes of each fp16 byte of weight, from the row's variant."""
    bits = re.search(r"(\d+)-bit|\bint(\d+)", variant)
    if bits:
        return int(bits[1] or bits[2]) / 16
    sparse = re.search(r"sparse (\d+)%", variant)
    if sparse:
        # The values that stay, and one bit each to say where.
        return 1 - int(sparse.group(1)) / 100 + 1 / 16
    return 0.5 if re.search(r"\bW8", variant) else 1.0


def palette_group(variant: str) -> int:
    """Output channels that share a palette, 0 when the whole weight has one or there is none."""
    group = re.search(r"group (\d+)", variant)
    return int(group.group(1)) if group else int("per-channel" in variant)


def _palettized(features: Features, group: int) -> Features:
    if not group:
        return features
    # Every weight of these models meets one activation, two operations each.
    layers = tuple(
        replace(layer, palette_loads=layer.flops / 2 / group) for layer in features.layers
    )
    return replace(features, layers=layers)


# Rows that could be described and are left out all the same, by name.
_SLOWER = (
    "suspected of mixed placement: for its work it takes {} times as long as the small encoder"
)
_ONE_TOKEN = (
    "each call takes one token (its NOTES of 17 April 2023); the length in its table is the "
    "cache's, which is copied in and out, and no term describes that"
)
LEFT_OUT = {"c0455": _SLOWER.format(1.6), "c0456": _SLOWER.format(2.4)}
_CONFORMERS = ("parakeet", "gigaam")
# What a row must tell of a transformer.
_SIZES = {"layers", "width", "heads", "head_dim", "kv_heads", "hidden", "tokens", "keys"}


# Row of the calibration file to the features of its program, or the reason it has none.
def features_for(row: Mapping[str, Any], images: Callable[[str], Features]) -> Features | str:
    """What the measured program of ``row`` asks of the device, or why that is not known."""
    model, variant = row["model"].lower(), row["variant"]
    if row.get("geometry") or row.get("form"):
        return _described(row)
    shape = row["input_shapes"]
    first = model.split(" ")[0]
    if "85% ops" in variant:
        return "part of it ran on the CPU, which part is not told"
    if "KV-cache variant, query length" in variant:
        return _ONE_TOKEN
    if first in (*IMAGE_MODELS, "mobilenetv3-small"):
        features = _stored(images(first), weight_share(variant))
        return replace(features, int8="W8A8" in variant)
    if first == "distilbert":
        # Apple's port: channels first, an einsum for each head.
        return transformer(TRANSFORMERS[first], shape[1], form=Form("split", masked=True))
    if first.startswith("whisper") and shape:
        # The turbo model has the large one's encoder; a naive export is the stock graph.
        size = TRANSFORMERS[re.sub(r"-v\d.*", "", first)]
        return transformer(size, shape[2] // 2, form=Form(masked=False))
    if first.startswith("opt-1.3b"):
        whole = transformer(TRANSFORMERS["opt-1.3b"], 1, shape["prompt"])
        return _palettized(_stored(whole, weight_share(variant)), palette_group(variant))
    if first in TRANSFORMERS:
        size = TRANSFORMERS[first]
        if "next-token" in variant:
            cached = first.startswith("gpt2")
            return transformer(size, _PROMPT_WINDOW if cached else _KV_CACHE, _KV_CACHE)
        if not shape:
            return "its sequence length is not published"
        return transformer(size, shape[1], max(shape[1], _KV_CACHE))
    if "qwen3-0.6b" in model and shape:
        return transformer(TRANSFORMERS["qwen3-0.6b"], shape[1])
    if first.startswith("llama-1b"):
        # 16 blocks of 7 matrices and the head; a token is bound by its weights.
        each = row["weight_bytes"] / (16 * 7 + 1)
        return Features((Layers(each, each, 2048.0, count=16 * 7 + 1),), 0.0, 0.0, ())
    found = re.match(r"(\d+)x conv1x1 (\d+)ch (\d+)x(\d+)", model)
    if found:
        count, channels, height, width = map(int, found.groups())
        features = chain(count, (channels, channels), height * width)
        return replace(_stored(features, weight_share(variant)), int8="W8A8" in variant)
    found = re.match(r"1x1 conv (\d+)->(\d+), one token", model)
    if found:
        wide, narrow = map(int, found.groups())
        whole = chain(1, (wide, narrow), 1)
        if "split" not in variant or "unsplit" in variant:
            return whole
        layers = tuple(replace(layer, notched_bytes=0.0) for layer in whole.layers)
        return replace(whole, layers=layers)
    return "its architecture or input size is not published with the figure"


def _described(row: Mapping[str, Any]) -> Features | str:
    """Features of a row that tells its own form and sizes."""
    geometry, form = row.get("geometry") or {}, row.get("form") or {}
    model = row["model"].lower()
    if any(name in model for name in _CONFORMERS):
        return "a conformer: its relative positions and convolution modules are not described"
    known = {key: value for key, value in geometry.items() if isinstance(value, int)}
    if geometry.get("kind") != "transformer" or not known.keys() >= _SIZES:
        return "its architecture or input size is not published with the figure"
    size = Transformer(
        known["layers"],
        known["width"],
        known["heads"],
        known["hidden"],
        gated=bool(known.get("gated")),
        attention=known["heads"] * known["head_dim"],
        key_heads=known["kv_heads"],
        audio="stem" in form,
    )
    attention = str(form.get("attention"))
    parts = re.search(r"query_tiled_(\d+)", attention)
    written = Form(
        "split" if attention.startswith("split") else "batched",
        int(parts.group(1)) if parts else 1,
        masked="mask" in form,
        open_norms=str(form.get("norm")).startswith("rms"),
    )
    variant = row["variant"]
    programs = re.search(r"(\d+) parts", variant)
    whole = transformer(
        size, known["tokens"], known["keys"], written, int(programs[1]) if programs else 1
    )
    return _palettized(_stored(whole, weight_share(variant)), palette_group(variant))


def family(row: Mapping[str, Any]) -> str:
    """What rows of one model share: one architecture at one set of sizes, whatever its name."""
    geometry = row.get("geometry") or {}
    keys = ("layers", "width", "heads", "kv_heads", "head_dim", "hidden")
    if geometry.get("kind") != "transformer":
        return str(row["model"])
    return "transformer " + " ".join(str(geometry.get(key)) for key in keys)


def measured_rows(calibration: Iterable[Path]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows to fit on, and rows left out with the reason."""
    cache: dict[str, Features] = {}

    def images(name: str) -> Features:
        if name not in cache:
            cache[name] = image_model(name)
        return cache[name]

    rows = [row for path in calibration for row in json.loads(path.read_text("utf-8"))["rows"]]
    public = {row.get("pair") for row in rows if _through_core_ml(row)} - {None}
    taken, left = [], []
    for row in rows:
        # A private call of the ANE tells of forms only where Core ML was timed beside it.
        if not (_through_core_ml(row) or (_private(row) and row.get("pair") in public)):
            continue
        chip = (row["chip"] or "").removesuffix(" Air")
        if row["kind"] != "measured" or chip not in chip_names():
            continue
        features = LEFT_OUT.get(row["id"]) or features_for(row, images)
        if row.get("flag", "") and "suspicious" in row["flag"]:
            features = "flagged as suspicious by its source"
        about = {"id": row["id"], "model": row["model"], "variant": row["variant"], "chip": chip}
        if isinstance(features, str):
            left.append({**about, "reason": features})
            continue
        entry = {
            **about,
            "family": family(row),
            "ms": row["latency_ms"],
            "source": f"{row['source']}, {row['ref']}",
        }
        no_length = "next-token" in row["variant"] and not row["input_shapes"]
        if no_length or re.search("length.*assumed", row.get("note") or ""):
            entry["assumed"] = "input length"
        taken.append({**entry, "features": features.to_json()})
    return taken, left


def _through_core_ml(row: Mapping[str, Any]) -> bool:
    units = row["compute_units"] or ""
    on_ane = "NE" in units or units.startswith("ALL")
    return on_ane and not _private(row) and "Core AI" not in units


def _private(row: Mapping[str, Any]) -> bool:
    return "private" in (row["compute_units"] or "")


def main(destination: str, *calibration: str) -> None:
    """Write the rows of the calibration files to ``destination``."""
    taken, left = measured_rows(map(Path, calibration))
    data = {
        "about": "Published latencies of whole programs on the ANE, and what each program asks of "
        "the device (benchmarks/latency_rows.py). layers: [operations, weight bytes, output "
        "elements, palette loads, notched bytes, count]; traffic: [bytes of a tensor, bytes].",
        "rows": taken,
        "left_out": left,
    }
    Path(destination).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{len(taken)} rows, {len(left)} left out")


if __name__ == "__main__":
    main(*sys.argv[1:])
