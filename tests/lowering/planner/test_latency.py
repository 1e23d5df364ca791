"""The latency model: its features, its stored fit, and that the fit is what the rows give."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from coremltools import target as ct_target
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

from benchmarks import latency_fit
from benchmarks.latency_programs import TRANSFORMERS, Form, block, op, transformer
from benchmarks.latency_rows import features_for, palette_group, weight_share
from lowering.planner import OpFacts, TensorFacts, chip_names, price
from lowering.planner.features import Features, Layers, Traffic, features_of, is_notched
from lowering.planner.latency import fitted, predict_features
from lowering.planner.mil import read_program


@pytest.fixture(scope="module")
def rows():
    return latency_fit.read_rows()


def test_stored_fit_is_what_the_rows_give(rows):
    found = latency_fit.fit(rows)
    for name, value in fitted()["rates"].items():
        assert getattr(found.rates, name) == pytest.approx(value, rel=0.02), name
    for chip, entry in fitted()["chips"].items():
        assert found.factor(chip) == pytest.approx(entry["factor"], rel=0.02), chip
        assert found.traffic(chip) == pytest.approx(entry["traffic"], rel=0.02), chip


def test_acceptance_on_left_out_rows(rows):
    """The stored figures come from `latency_fit`; a few rows are left out again here."""
    chips = fitted()["chips"]
    assert fitted()["coverage"] >= 0.8
    for chip, entry in chips.items():
        if entry["rows"]:
            assert entry["median_error"] <= (0.3 if entry["rows"] > 2 else 0.35), chip
    left_out = {entry["id"]: entry["left_out_ms"] for entry in fitted()["residuals"]}
    for at in (0, len(rows) // 2, len(rows) - 1):
        rest = [row for index, row in enumerate(rows) if index != at]
        again = latency_fit.fit(rest).predict(rows[at])
        assert again == pytest.approx(left_out[rows[at].id], rel=0.02)


def test_a_fit_recovers_what_made_the_rows(rows):
    """Rows made by the formula are fitted far better than the real ones: the fit works."""
    true = latency_fit.fit(rows)
    made = [replace(row, ms=true.predict(row)) for row in rows]
    found = latency_fit.fit(made)
    errors = [abs(math.log(found.predict(row) / row.ms)) for row in made]
    assert np.median(errors) < 0.05


def test_chips_without_rows_are_unknown():
    features = transformer(TRANSFORMERS["distilbert"], 128)
    assert predict_features(features, "M4") is not None
    for chip in ("A14", "A15", "M3", "M6"):
        assert chip in chip_names()
        assert predict_features(features, chip) is None


def test_features_survive_json():
    features = transformer(TRANSFORMERS["whisper-tiny"], 1500)
    assert Features.from_json(json.loads(json.dumps(features.to_json()))) == features


def test_features_of_one_block():
    size = TRANSFORMERS["gpt2"]
    ops = block(size, 128, 128)
    features = features_of(ops, ["ane"] * len(ops))
    weights = 12 * size.width**2
    attention = 4 * 128 * 128 * size.width
    assert features.flops == pytest.approx(2 * 128 * weights + attention)
    assert features.weight_bytes == 2 * weights
    assert features.product_flops == attention
    assert features.spilled_bytes(2.3e6) == 0
    assert features.segments == 1


def _attention(*, split: bool, tokens: int = 256, heads: int = 4, width: int = 32):
    """Attention in two forms over the same numbers: all heads at once, or each on its own."""
    head = (1, heads, tokens, width)
    fused = op("scaled_dot_product_attention", head, head, head, head)
    one = (1, width, 1, tokens)
    key, scores = (1, tokens, 1, width), (1, tokens, 1, tokens)
    each = [
        op("einsum", scores, one, key, equation="bchq,bkhc->bkhq"),
        op("softmax", scores, scores),
        op("einsum", one, scores, one, equation="bkhq,bchk->bchq"),
    ]
    return each * heads if split else [fused]


@pytest.mark.parametrize("tokens", [64, 256, 1024])
def test_forms_of_attention_are_the_same_work(tokens):
    found = [
        features_of(ops, ["ane"] * len(ops))
        for ops in (_attention(split=split, tokens=tokens) for split in (False, True))
    ]
    assert found[0].product_flops == found[1].product_flops == 4 * 4 * tokens * tokens * 32
    assert found[0].elements == found[1].elements
    assert sum(t.bytes for t in found[0].traffic) == sum(t.bytes for t in found[1].traffic)


def test_scores_that_fit_by_the_head_cost_no_traffic():
    both = [_attention(split=split, tokens=512, heads=12) for split in (False, True)]
    whole, each = (features_of(ops, ["ane"] * len(ops)) for ops in both)
    assert whole.spilled_bytes(2.3e6) > 0
    assert each.spilled_bytes(2.3e6) == 0
    # Two tiles must fit: what is read, and what is made of it.
    assert each.spilled_bytes(1.9 * 512 * 512 * 2) > 0


def test_a_fused_attention_s_mask_works_on_the_scores():
    head, mask = (1, 4, 64, 8), (1, 1, 64, 64)
    plain = op("scaled_dot_product_attention", head, head, head, head)
    masked = op("scaled_dot_product_attention", head, head, head, head, mask)
    found = [features_of([ops], ["ane"]) for ops in (plain, masked)]
    assert found[1].elements - found[0].elements == 4 * 64 * 64


@pytest.mark.parametrize(
    ("operands", "equation", "flops"),
    [
        (((1, 8, 1, 16), (1, 32, 1, 8)), "bchq,bkhc->bkhq", 2 * 8 * 16 * 32),
        (((2, 3, 4), (2, 4, 5)), "bij,bjk->bik", 2 * 2 * 3 * 4 * 5),
        (((6, 4), (4, 5)), "", 2 * 6 * 4 * 5),
    ],
)
def test_einsum_is_counted_by_its_labels(operands, equation, flops):
    first, second = operands
    sizes = dict(zip("".join(equation.split("->")[0].split(",")), [*first, *second], strict=False))
    output = tuple(sizes[label] for label in equation.split("->")[1]) if equation else (6, 5)
    facts = op("einsum", output, first, second, equation=equation)
    assert features_of([facts], ["ane"]).product_flops == flops


def test_a_product_with_a_constant_is_a_projection():
    x = TensorFacts((1, 16, 8), "fp16", "x")
    for const in (False, True):
        y = TensorFacts((8, 8), "fp16", "y", const)
        facts = OpFacts("matmul", (x, y), (TensorFacts((1, 16, 8), "fp16"),))
        found = features_of([facts], ["ane"])
        assert (found.product_flops == 0) is const
        assert bool(found.layers) is const
        assert found.flops == 2 * 16 * 8 * 8


def test_convolution_and_linear_take_the_same_time():
    x, image = (1, 128, 256), (1, 256, 1, 128)
    linear = op("linear", x, x, weight=(256, 256))
    conv = op("conv", image, image, weight=(256, 256, 1, 1))
    times = [
        predict_features(features_of([facts] * 12, ["ane"] * 12), "M4").ms
        for facts in (linear, conv)
    ]
    assert times[0] == times[1]


def test_dumped_dilations_are_kept():
    row = {
        "op": "conv",
        "inputs": [{"shape": [1, 64, 32, 32], "dtype": "fp16"}],
        "output": {"shape": [1, 64, 32, 32], "dtype": "fp16"},
        "attrs": {"weight_shape": [64, 64, 3, 3], "dil": 2},
    }
    facts = OpFacts.from_json(row)
    assert facts.attributes["dilations"] == [2, 2]
    # *Measured*: the dispatcher charges the operations divided by the dilations.
    assert price(facts)["ane"] == pytest.approx(0.0026358, rel=1e-3)


@pytest.mark.parametrize("parts", [1, 3])
def test_queries_in_parts_are_smaller_tiles(parts):
    size = TRANSFORMERS["whisper-tiny"]
    ops = block(size, 1500, 1500, Form("split", parts, masked=False))
    features = features_of(ops, ["ane"] * len(ops))
    assert max(t.tile_bytes for t in features.traffic) == 1500 // parts * 1500 * 2
    assert (features.spilled_bytes(4.72e6) == 0) is (parts == 3)


def test_work_left_on_the_cpu_is_counted():
    ops = block(TRANSFORMERS["gpt2"], 128, 128)
    devices = ["ane"] * len(ops)
    devices[len(ops) // 2] = "cpu"
    mixed = features_of(ops, devices)
    assert mixed.segments == 2
    assert mixed.cpu_ms > 0


def test_palettes_and_packed_weights_are_read_from_a_program():
    indices = np.zeros((64, 64, 1, 1), types.np_uint4_dtype)
    palettes = np.ones((32, 1, 1, 1, 16, 1), np.float16)

    @mb.program(
        input_specs=[mb.TensorSpec((1, 64, 8, 8), types.fp16)], opset_version=ct_target.iOS18
    )
    def packed(x):
        weight = mb.constexpr_lut_to_dense(indices=indices, lut=palettes)
        return mb.conv(x=x, weight=weight)

    facts = read_program(packed).ops[0].facts
    layer = features_of([facts], ["ane"]).layers[0]
    # 4 bits each and 32 palettes of 16 fp16; two output channels share a palette.
    assert layer.weight_bytes == 64 * 64 / 2 + 32 * 16 * 2
    assert layer.palette_loads == 64 * 64 / 2
    assert layer.notched_bytes == 0


def test_notch():
    assert is_notched((4096, 2048))
    assert not is_notched((2016, 4096))
    assert not is_notched((64, 64, 3, 3))


@pytest.mark.parametrize(
    ("variant", "share", "group"),
    [
        ("fp16", 1.0, 0),
        ("palettized 4-bit", 0.25, 0),
        ("queries in thirds, int4 palettes", 0.25, 0),
        ("sparse 75%", 0.3125, 0),
        ("W8A8 (quantization table)", 0.5, 0),
        ("4-bit palettized group 2", 0.25, 2),
        ("4-bit palettized per-channel", 0.25, 1),
    ],
)
def test_variants(variant, share, group):
    assert weight_share(variant) == share
    assert palette_group(variant) == group


def test_rows_without_a_known_program_give_a_reason():
    row = {"model": "Secret net", "variant": "fp16", "input_shapes": None}
    assert isinstance(features_for(row, lambda name: pytest.fail(name)), str)


def test_more_work_takes_longer():
    base = Features((Layers(1e9, 1e6, 1e6, count=10),), 1e6, 1e6, ())
    first = predict_features(base, "M4").ms
    for change in (
        {"elements": 1e9},
        {"product_flops": 1e12},
        {"traffic": (Traffic(1e7, 1e9),)},
        {"segments": 5},
        {"cpu_ms": 1.0},
        {"layers": (Layers(1e11, 1e6, 1e6, count=10),)},
        {"layers": (Layers(1e9, 1e9, 1e6, count=10),)},
    ):
        assert predict_features(replace(base, **change), "M4").ms > first


def test_from_json_facts_have_layers():
    row = {
        "op": "linear",
        "inputs": [{"shape": [1, 4, 8], "dtype": "fp16"}],
        "output": {"shape": [1, 4, 16], "dtype": "fp16"},
        "attrs": {"weight_shape": [16, 8], "bias": 1},
    }
    layer = features_of([OpFacts.from_json(row)], ["ane"]).layers[0]
    assert layer.flops == 2 * 4 * 8 * 16
    assert layer.weight_bytes == 2 * (16 * 8 + 16)
