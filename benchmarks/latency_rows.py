"""Turns published latencies into rows that the latency model can be fitted on.

    python -m benchmarks.latency_rows CALIBRATION.json benchmarks/data/measured_latency.json

Only rows of kind ``measured`` are taken, of whole programs run through Core ML with the ANE. What
a program asks of the device is found from the operators of the same architecture: image models are
built with transformers and converted, the others are written down layer by layer. A row whose
architecture or input size is not published is left out, with the reason.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lowering.planner import OpFacts, TensorFacts, chip_names
from lowering.planner.features import Features, Layers, features_of, is_notched

# The later gpt2 rows say so; the earlier ones come from the same models.
_KV_CACHE = 512
# The next-token rows do not print their length. Assumed: the prompt window of the gpt2 models,
# which have a cache, and the full window of the pythia models, which have none (the repository's
# model code). Its base gpt2 keeps layer_norm in fp32, so part of it runs on the CPU. These rows are
# predicted and shown, but neither fitted on nor scored.
_PROMPT_WINDOW = 128


@dataclass(frozen=True)
class Transformer:
    """Sizes of a transformer.

    Attributes:
        layers: blocks.
        width: model width.
        heads: attention heads.
        hidden: width of the feed-forward layer.
        vocabulary: rows of the output head, 0 for none.
        gated: the feed-forward layer has a gate.
        attention: width of the concatenated heads; the model width by default.
    """

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int = 0
    gated: bool = False
    attention: int = 0


TRANSFORMERS = {
    "distilbert": Transformer(6, 768, 12, 3072),
    "gpt2": Transformer(12, 768, 12, 3072, 50257),
    "gpt2-medium": Transformer(24, 1024, 16, 4096, 50257),
    "gpt2-large": Transformer(36, 1280, 20, 5120, 50257),
    "gpt2-xl": Transformer(48, 1600, 25, 6400, 50257),
    "pythia-70m": Transformer(6, 512, 8, 2048, 50304),
    "pythia-160m": Transformer(12, 768, 12, 3072, 50304),
    "pythia-410m": Transformer(24, 1024, 16, 4096, 50304),
    "pythia-1b": Transformer(16, 2048, 8, 8192, 50304),
    "pythia-1.4b": Transformer(24, 2048, 16, 8192, 50304),
    "pythia-2.8b": Transformer(32, 2560, 32, 10240, 50304),
    "opt-1.3b": Transformer(24, 2048, 32, 8192, 50272),
    "qwen3-0.6b": Transformer(28, 1024, 16, 3072, 0, True, 2048),
    "whisper-tiny": Transformer(4, 384, 6, 1536),
    "whisper-base": Transformer(6, 512, 8, 2048),
    "whisper-small": Transformer(12, 768, 12, 3072),
    "whisper-medium": Transformer(24, 1024, 16, 4096),
    "whisper-large": Transformer(32, 1280, 20, 5120),
}
# transformers' configuration class, model class and image size.
IMAGE_MODELS = {
    "mobilenetv2-1.0": ("MobileNetV2Config", "MobileNetV2ForImageClassification", 224),
    "resnet50": ("ResNetConfig", "ResNetForImageClassification", 224),
    "mobilevitv2-1.0": ("MobileViTV2Config", "MobileViTV2ForImageClassification", 256),
}
# MobileNetV3-small (Howard et al., 2019, table 2): kernel, expansion, output, squeeze, stride.
MOBILENETV3_SMALL = (
    (3, 16, 16, True, 2),
    (3, 72, 24, False, 2),
    (3, 88, 24, False, 1),
    (5, 96, 40, True, 2),
    (5, 240, 40, True, 1),
    (5, 240, 40, True, 1),
    (5, 120, 48, True, 1),
    (5, 144, 48, True, 1),
    (5, 288, 96, True, 2),
    (5, 576, 96, True, 1),
    (5, 576, 96, True, 1),
)


def _op(op_type: str, output: tuple[int, ...], *inputs: tuple[int, ...], **extra: Any) -> OpFacts:
    weight = extra.pop("weight", None)
    constants = (TensorFacts(weight, "fp16", "weight", True),) if weight else ()
    return OpFacts(
        op_type,
        tuple(TensorFacts(shape, "fp16") for shape in inputs),
        (TensorFacts(output, "fp16"),),
        constants,
        extra,
    )


def block(size: Transformer, tokens: int, keys: int) -> list[OpFacts]:
    """One block on ``(1, tokens, width)`` that attends to ``keys`` positions."""
    x = (1, tokens, size.width)
    inner = size.attention or size.width
    head = inner // size.heads
    query, scores = (1, size.heads, tokens, head), (1, size.heads, tokens, keys)
    key = (1, size.heads, keys, head)
    hidden = (1, tokens, size.hidden)
    projected = (1, tokens, inner)
    ops = [_op("layer_norm", x, x)]
    ops += [_op("linear", projected, x, weight=(inner, size.width)) for _ in range(3)]
    ops += [_op("transpose", query, projected) for _ in range(3)]
    ops.append(_op("matmul", scores, query, key, transpose_y=True))
    ops.append(_op("add", scores, scores))
    ops.append(_op("softmax", scores, scores))
    ops.append(_op("matmul", query, scores, key))
    ops.append(_op("transpose", projected, query))
    ops.append(_op("linear", x, projected, weight=(size.width, inner)))
    ops += [_op("add", x, x, x), _op("layer_norm", x, x)]
    up = 2 if size.gated else 1
    ops += [_op("linear", hidden, x, weight=(size.hidden, size.width)) for _ in range(up)]
    ops.append(_op("gelu", hidden, hidden))
    if size.gated:
        ops.append(_op("mul", hidden, hidden, hidden))
    ops.append(_op("linear", x, hidden, weight=(size.width, size.hidden)))
    ops.append(_op("add", x, x, x))
    return ops


def transformer(name: str, tokens: int, keys: int = 0) -> Features:
    """What the named transformer asks of the device for one call."""
    size = TRANSFORMERS[name]
    ops = block(size, tokens, keys or tokens) * size.layers
    if name.startswith("whisper"):
        frames = 2 * tokens
        wide = (1, size.width, 1, frames)
        ops.append(_op("conv", wide, (1, 80, 1, frames), weight=(size.width, 80, 1, 3)))
        ops.append(_op("conv", (1, size.width, 1, tokens), wide, weight=(size.width,) * 2 + (1, 3)))
    if size.vocabulary:
        last = (1, 1, size.width)
        head = (size.vocabulary, size.width)
        ops.append(_op("linear", (1, 1, size.vocabulary), last, weight=head))
    return features_of(ops, ["ane"] * len(ops))


def image_model(name: str) -> Features:
    """What the named image model asks of the device."""
    ops = mobilenetv3_small() if name == "mobilenetv3-small" else _converted(*IMAGE_MODELS[name])
    return features_of(ops, ["ane"] * len(ops))


def _converted(config: str, model_class: str, size: int) -> list[OpFacts]:
    import coremltools as ct
    import torch
    import transformers

    from lowering.planner.mil import read_program
    from lowering.support.quiet import quiet_coremltools

    settings = getattr(transformers, config)(num_labels=1000, return_dict=False)
    model = getattr(transformers, model_class)(settings).eval()
    program = torch.export.export(model, (torch.zeros(1, 3, size, size),)).run_decompositions({})
    with quiet_coremltools():
        converted = ct.convert(program, minimum_deployment_target=ct.target.iOS17)
    return [op.facts for op in read_program(converted).ops]


def mobilenetv3_small() -> list[OpFacts]:
    """Its operators, activations that fuse with their convolution left out."""
    ops: list[OpFacts] = []
    side, channels = 224, 3

    def conv(out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        nonlocal side, channels
        before = (1, channels, side, side)
        side //= stride
        weight = (out, channels // groups, kernel, kernel)
        ops.append(_op("conv", (1, out, side, side), before, weight=weight))
        channels = out

    def hard_swish() -> None:
        ops.append(_op("mul", (1, channels, side, side), (1, channels, side, side)))

    conv(16, 3, 2)
    hard_swish()
    for kernel, expansion, out, squeeze, stride in MOBILENETV3_SMALL:
        conv(expansion, 1)
        conv(expansion, kernel, stride, expansion)
        if squeeze:
            image = (1, channels, side, side)
            ops += [_op("reduce_mean", (1, channels, 1, 1), image), _op("mul", image, image)]
        conv(out, 1)
    conv(576, 1)
    hard_swish()
    ops.append(_op("linear", (1, 1024), (1, 576), weight=(1024, 576)))
    ops.append(_op("linear", (1, 1000), (1, 1024), weight=(1000, 1024)))
    return ops


def _stored(features: Features, share: float) -> Features:
    layers = tuple(
        replace(layer, weight_bytes=layer.weight_bytes * share) for layer in features.layers
    )
    return replace(features, layers=layers)


def weight_share(variant: str) -> float:
    """Stored bytes of each fp16 byte of weight, from the row's variant."""
    bits = re.search(r"(\d+)-bit", variant)
    if bits:
        return int(bits.group(1)) / 16
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


def chain(layers: int, channels: tuple[int, int], positions: int) -> Features:
    """1×1 convolutions one after the other."""
    wide, narrow = channels
    flops, stored = 2.0 * wide * narrow * positions, 2.0 * wide * narrow
    notched = stored if is_notched((narrow, wide)) else 0.0
    layer = Layers(flops, stored, float(narrow * positions), 0.0, notched, layers)
    return Features((layer,), 0.0, 0.0)


# Row of the calibration file to the features of its program, or the reason it has none.
def features_for(row: Mapping[str, Any], images: Callable[[str], Features]) -> Features | str:
    """What the measured program of ``row`` asks of the device, or why that is not known."""
    model, variant = row["model"].lower(), row["variant"]
    shape = row["input_shapes"]
    first = model.split(" ")[0]
    if "85% ops" in variant:
        return "part of it ran on the CPU, which part is not told"
    if first in (*IMAGE_MODELS, "mobilenetv3-small"):
        features = _stored(images(first), weight_share(variant))
        return replace(features, int8="W8A8" in variant)
    if first == "distilbert":
        return transformer("distilbert", shape[1])
    if first.startswith("whisper") and shape:
        # The turbo model has the large one's encoder.
        return transformer(re.sub(r"-v\d.*", "", first), shape[2] // 2)
    if first.startswith("opt-1.3b"):
        features = _stored(transformer("opt-1.3b", 1, shape["prompt"]), weight_share(variant))
        return _palettized(features, palette_group(variant))
    if first in TRANSFORMERS:
        if "next-token" in variant:
            cached = first.startswith("gpt2")
            return transformer(first, _PROMPT_WINDOW if cached else _KV_CACHE, _KV_CACHE)
        if not shape:
            return "its sequence length is not published"
        return transformer(first, shape[1], max(shape[1], _KV_CACHE))
    if "qwen3-0.6b" in model and shape:
        return transformer("qwen3-0.6b", shape[1])
    if first.startswith("llama-1b"):
        # 16 blocks of 7 matrices and the head; a token is bound by its weights.
        each = row["weight_bytes"] / (16 * 7 + 1)
        return Features((Layers(each, each, 2048.0, count=16 * 7 + 1),), 0.0, 0.0)
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


def measured_rows(calibration: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows to fit on, and rows left out with the reason."""
    cache: dict[str, Features] = {}

    def images(name: str) -> Features:
        if name not in cache:
            cache[name] = image_model(name)
        return cache[name]

    taken, left = [], []
    for row in json.loads(calibration.read_text("utf-8"))["rows"]:
        units = row["compute_units"] or ""
        through_core_ml = "private" not in units and "Core AI" not in units
        on_ane = "NE" in units or units.startswith("ALL")
        if row["kind"] != "measured" or not row["chip"] or not on_ane or not through_core_ml:
            continue
        chip = row["chip"].removesuffix(" Air")
        if chip not in chip_names():
            continue
        features = features_for(row, images)
        if row.get("flag", "") and "suspicious" in row["flag"]:
            features = "flagged as suspicious by its source"
        about = {"id": row["id"], "model": row["model"], "variant": row["variant"], "chip": chip}
        if isinstance(features, str):
            left.append({**about, "reason": features})
            continue
        entry = {**about, "ms": row["latency_ms"], "source": f"{row['source']}, {row['ref']}"}
        if "next-token" in row["variant"] and not row["input_shapes"]:
            entry["assumed"] = "input length"
        taken.append({**entry, "features": features.to_json()})
    return taken, left


def main(calibration: str, destination: str) -> None:
    """Write the rows of ``calibration`` to ``destination``."""
    taken, left = measured_rows(Path(calibration))
    data = {
        "about": "Published latencies of whole programs run through Core ML with the ANE, and what "
        "each program asks of the device (benchmarks/latency_rows.py). layers: [operations, weight "
        "bytes, output elements, palette loads, notched bytes, count].",
        "rows": taken,
        "left_out": left,
    }
    Path(destination).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{len(taken)} rows, {len(left)} left out")


if __name__ == "__main__":
    main(*sys.argv[1:])
