"""Operators of the programs whose latencies were published, in the form that was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lowering.planner import OpFacts, TensorFacts
from lowering.planner.features import Features, Layers, features_of, is_notched

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
        key_heads: heads of keys and values; as many as of queries by default.
        audio: two convolutions of width 3 over 80 mel bands stand before the blocks.
    """

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int = 0
    gated: bool = False
    attention: int = 0
    key_heads: int = 0
    audio: bool = False


@dataclass(frozen=True)
class Form:
    """How a transformer was written.

    Attributes:
        attention: ``batched``: all heads in two matmuls on (B, H, S, D) between transposes;
            ``split``: an einsum for each head on (B, D, 1, S).
        parts: equal chunks that the queries are cut into; ``split`` only.
        masked: a mask is added to the scores.
        open_norms: norms are written with squares, means and roots, as stock RMS norms are.
        open_softmax: softmax is written in five operators.
        batch: sequences in one call.
        convolutions: projections are 1x1 convolutions; those of ``split`` always are.
    """

    attention: Literal["batched", "split"] = "batched"
    parts: int = 1
    masked: bool = True
    open_norms: bool = False
    open_softmax: bool = False
    batch: int = 1
    convolutions: bool = False


STOCK = Form()
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
    "qwen3-0.6b": Transformer(
        layers=28,
        width=1024,
        heads=16,
        hidden=3072,
        vocabulary=0,
        gated=True,
        attention=2048,
        key_heads=8,
    ),
    "whisper-tiny": Transformer(4, 384, 6, 1536, audio=True),
    "whisper-base": Transformer(6, 512, 8, 2048, audio=True),
    "whisper-small": Transformer(12, 768, 12, 3072, audio=True),
    "whisper-medium": Transformer(24, 1024, 16, 4096, audio=True),
    "whisper-large": Transformer(32, 1280, 20, 5120, audio=True),
}


def op(
    op_type: str,
    output: tuple[int, ...],
    *inputs: tuple[int, ...],
    weight: tuple[int, ...] | None = None,
    **attributes: object,
) -> OpFacts:
    """An fp16 operator; ``weight`` gives the shape of its weight."""
    constants = (TensorFacts(weight, "fp16", "weight", True),) if weight else ()
    return OpFacts(
        op_type,
        tuple(TensorFacts(shape, "fp16") for shape in inputs),
        (TensorFacts(output, "fp16"),),
        constants,
        attributes,
    )


def block(size: Transformer, tokens: int, keys: int, form: Form = STOCK) -> list[OpFacts]:
    """One block on ``tokens`` positions that attends to ``keys`` positions."""
    split = form.attention == "split"
    image = split or form.convolutions
    inner = size.attention or size.width
    key_width = inner // size.heads * (size.key_heads or size.heads)

    def at(width: int) -> tuple[int, ...]:
        return (form.batch, width, 1, tokens) if image else (form.batch, tokens, width)

    def project(wide: int, narrow: int) -> OpFacts:
        kind, kernel = ("conv", (1, 1)) if image else ("linear", ())
        return op(kind, at(wide), at(narrow), weight=(wide, narrow, *kernel))

    x, hidden = at(size.width), at(size.hidden)
    ops = _norm(form, x)
    ops += [project(inner, size.width), *(project(key_width, size.width) for _ in range(2))]
    ops += (_split if split else _batched)(size, tokens, keys, form)
    ops += [project(size.width, inner), op("add", x, x, x), *_norm(form, x)]
    ops += [project(size.hidden, size.width) for _ in range(2 if size.gated else 1)]
    ops.append(op("gelu", hidden, hidden))
    if size.gated:
        ops.append(op("mul", hidden, hidden, hidden))
    return [*ops, project(size.width, size.hidden), op("add", x, x, x)]


def _norm(form: Form, x: tuple[int, ...]) -> list[OpFacts]:
    if not form.open_norms:
        return [op("layer_norm", x, x)]
    mean = (*x[:-1], 1)
    return [
        op("mul", x, x, x),
        op("reduce_mean", mean, x),
        op("rsqrt", mean, mean),
        op("mul", x, x, mean),
        op("mul", x, x),
    ]


def _softmax(form: Form, scores: tuple[int, ...]) -> list[OpFacts]:
    if not form.open_softmax:
        return [op("softmax", scores, scores)]
    row = (*scores[:-1], 1)
    return [
        op("reduce_max", row, scores),
        op("sub", scores, scores, row),
        op("exp", scores, scores),
        op("reduce_sum", row, scores),
        op("real_div", scores, scores, row),
    ]


def _batched(size: Transformer, tokens: int, keys: int, form: Form) -> list[OpFacts]:
    inner = size.attention or size.width
    width = inner // size.heads
    projected = (form.batch, tokens, inner)
    query, key = ((form.batch, size.heads, n, width) for n in (tokens, keys))
    scores = (form.batch, size.heads, tokens, keys)
    grouped = (form.batch, size.key_heads or size.heads, tokens, width)
    ops = [op("transpose", query, projected), *(op("transpose", grouped, grouped),) * 2]
    if grouped[1] != size.heads:
        ops += [op("tile", key, grouped)] * 2
    ops.append(op("matmul", scores, query, key, transpose_y=True))
    if form.masked:
        ops.append(op("add", scores, scores))
    ops += _softmax(form, scores)
    ops.append(op("matmul", query, scores, key))
    return [*ops, op("transpose", projected, query)]


def _split(size: Transformer, tokens: int, keys: int, form: Form) -> list[OpFacts]:
    inner = size.attention or size.width
    width, chunk = inner // size.heads, tokens // form.parts
    image = (form.batch, inner, 1, tokens)
    query, part = ((form.batch, width, 1, n) for n in (chunk, chunk))
    key, value = (form.batch, keys, 1, width), (form.batch, width, 1, keys)
    scores = (form.batch, keys, 1, chunk)
    ops = [op("transpose", (form.batch, keys, 1, inner), image)]
    for _ in range(size.heads * form.parts):
        ops.append(op("einsum", scores, query, key, equation="bchq,bkhc->bkhq"))
        if form.masked:
            ops.append(op("add", scores, scores))
        ops += _softmax(form, scores)
        ops.append(op("einsum", part, scores, value, equation="bkhq,bchk->bchq"))
    return [*ops, op("concat", image, image)]


def transformer(
    size: Transformer, tokens: int, keys: int = 0, form: Form = STOCK, programs: int = 1
) -> Features:
    """What a transformer asks of the device for one call.

    Args:
        size: its sizes.
        tokens: positions.
        keys: positions that it attends to; ``tokens`` by default.
        form: how it is written.
        programs: parts that it is cut into, run one after another.
    """
    ops = block(size, tokens, keys or tokens, form) * size.layers
    if size.audio:
        frames = 2 * tokens
        wide = (1, size.width, 1, frames)
        ops.append(op("conv", wide, (1, 80, 1, frames), weight=(size.width, 80, 1, 3)))
        ops.append(op("conv", (1, size.width, 1, tokens), wide, weight=(size.width,) * 2 + (1, 3)))
    if size.vocabulary:
        last = (1, 1, size.width)
        head = (size.vocabulary, size.width)
        ops.append(op("linear", (1, 1, size.vocabulary), last, weight=head))
    whole = features_of(ops, ["ane"] * len(ops))
    return whole if programs == 1 else in_parts(whole, programs)


def in_parts(whole: Features, programs: int) -> Features:
    """The same work in several programs, one after another."""
    return Features(
        whole.layers,
        whole.product_flops,
        whole.elements,
        whole.traffic,
        whole.segments + programs - 1,
        whole.cpu_ms,
        whole.int8,
    )


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
        ops.append(op("conv", (1, out, side, side), before, weight=weight))
        channels = out

    def hard_swish() -> None:
        ops.append(op("mul", (1, channels, side, side), (1, channels, side, side)))

    conv(16, 3, 2)
    hard_swish()
    for kernel, expansion, out, squeeze, stride in MOBILENETV3_SMALL:
        conv(expansion, 1)
        conv(expansion, kernel, stride, expansion)
        if squeeze:
            image = (1, channels, side, side)
            ops += [op("reduce_mean", (1, channels, 1, 1), image), op("mul", image, image)]
        conv(out, 1)
    conv(576, 1)
    hard_swish()
    ops.append(op("linear", (1, 1024), (1, 576), weight=(1024, 576)))
    ops.append(op("linear", (1, 1000), (1, 1024), weight=(1000, 1024)))
    return ops


def chain(layers: int, channels: tuple[int, int], positions: int) -> Features:
    """1x1 convolutions one after the other."""
    wide, narrow = channels
    flops, stored = 2.0 * wide * narrow * positions, 2.0 * wide * narrow
    notched = stored if is_notched((narrow, wide)) else 0.0
    layer = Layers(flops, stored, float(narrow * positions), 0.0, notched, layers)
    return Features((layer,), 0.0, 0.0, ())
