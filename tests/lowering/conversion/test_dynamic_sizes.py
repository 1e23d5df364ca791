"""Sizes that vary: from capture through the passes to a package that runs at several of them."""

import coremltools as ct
import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn
from torch.export import Dim

from frontend.capturing import capture
from frontend.errors import AnePassesError
from lowering.conversion.converter import convert
from lowering.errors import LoweringError
from lowering.reference import load
from lowering.verification import Original, VerificationError, verify
from passes import optimize_for_ane

FP32 = {"compute_precision": ct.precision.FLOAT32, "skip_model_load": True}
BATCH, TOKENS = Dim("batch", min=1, max=8), Dim("tokens", min=2, max=32)
LONGER = Dim("tokens", min=4, max=34)
EXAMPLE = (3, 9)
# The least, the most, and between; never the example's own.
SIZES = ((1, 2), (8, 32), (2, 17))


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = x + self.second(x)
        return self.head(x.mean((2, 3))), nn.functional.interpolate(x, scale_factor=2.0)


class UNet(nn.Module):
    """A group norm over dynamic sizes, and a resize to a size that is computed."""

    def __init__(self):
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(4, 8)
        self.head = nn.Conv2d(11, 3, 1)

    def forward(self, x):
        inner = nn.functional.silu(self.norm(self.down(x)))
        outer = nn.functional.interpolate(inner, size=x.shape[-2:], mode="bilinear")
        return self.head(torch.cat([outer, x], 1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layers = kind(8, 16, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.layers(x)[0])


class Spectrum(nn.Module):
    def __init__(self, width, hop, **options):
        super().__init__()
        self.register_buffer("window", torch.hann_window(width))
        self.hop, self.options = hop, options

    def forward(self, x):
        parts = torch.stft(
            x.flatten(1), 16, self.hop, len(self.window), self.window,
            return_complex=True, **self.options,
        )  # fmt: skip
        return torch.view_as_real(parts)


class Parts(nn.Module):
    """Splits whose sizes are computed: halves, thirds and the rest, parts of two and the rest."""

    def forward(self, x):
        third = x.shape[1] // 3
        short, rest = x.split([third, x.shape[1] - third], 1)
        one, other = (x * 2).transpose(1, 2).chunk(2, -1)
        return one.mean(-1) - other.amax(-1), rest, short.sum(1), x.cumsum(1)[:, :third]


class Unfolded(nn.Module):
    def forward(self, x):
        return x.unfold(1, 2, 1) * x.shape[1] ** 0.5, x.transpose(0, 1).unfold(0, 2, 2).mean(-1)


def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def language_model(kind, config, **options):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 40}
    heads = {"num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
    return kind(config(**{**sizes, **heads, **options}))


def qwen():
    options = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    return language_model(hf.Qwen3ForCausalLM, hf.Qwen3Config, use_cache=False, **options)


def bert():
    return language_model(hf.BertModel, hf.BertConfig)


def features(batch, tokens):
    return {"x": torch.randn(batch, tokens, 8)}


def ids(batch, tokens):
    return {"input_ids": torch.randint(2, 40, (batch, tokens))}


def masked_ids(batch, tokens):
    mask = torch.ones(batch, tokens, dtype=torch.int64)
    mask[0, -1] = 0
    return {**ids(batch, tokens), "attention_mask": mask}


BOTH = {0: BATCH, 1: TOKENS}
# name: (model, inputs of a batch and a number of tokens, dynamic shapes)
CASES = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4)),
        lambda b, t: {"input": torch.randn(b, t, 8)},
        {"input": BOTH},
    ),
    "conv": (
        Conv,
        lambda b, t: {"x": torch.randn(1, 3, 16 + 4 * b, 16 + 2 * t)},
        {"x": {2: Dim("height", min=16, max=64), 3: Dim("width", min=16, max=96)}},
    ),
    "multiples": (
        Conv,
        lambda b, t: {"x": torch.randn(1, 3, 16 + 4 * b, 16 + 2 * t)},
        {"x": {2: 2 * Dim("rows", min=8, max=32), 3: 2 * Dim("columns", min=8, max=48)}},
    ),
    "unet": (
        UNet,
        lambda b, t: {"x": torch.randn(b, 3, 16 + 4 * b, 16 + 2 * t)},
        {"x": {0: BATCH, 2: Dim("height", min=16, max=64), 3: Dim("width", min=16, max=96)}},
    ),
    "windows": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d((3, 2)), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        lambda b, t: {"input": torch.randn(b, 4, 7, 5)},
        {"input": {0: BATCH}},
    ),
    "windows_of_any_size": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d((3, None)), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
        lambda b, t: {"input": torch.randn(b, 4, 7, t)},
        {"input": {0: BATCH, 3: TOKENS}},
    ),
    "sequence_windows": (
        lambda: nn.AdaptiveAvgPool1d(5),
        lambda b, t: {"input": torch.randn(2, b, t)},
        {"input": {2: TOKENS, 1: BATCH}},
    ),
    "parts": (Parts, lambda b, t: {"x": torch.randn(b, t + 2, 8)}, {"x": {0: BATCH, 1: LONGER}}),
    "largest": (
        lambda: nn.Sequential(nn.AdaptiveMaxPool2d((3, 2)), nn.Flatten(2), nn.AdaptiveMaxPool1d(4)),
        lambda b, t: {"input": torch.randn(b, 4, 7, 5)},
        {"input": {0: BATCH}},
    ),
    "patches": (
        lambda: nn.Unfold(3, padding=1, stride=2),
        lambda b, t: {"input": torch.randn(b, 4, 7, 5)},
        {"input": {0: BATCH}},
    ),
    "spectrum": (lambda: Spectrum(16, 4), features, {"x": BOTH}),
    "spectrum_padded": (
        lambda: Spectrum(12, 5, pad_mode="constant", normalized=True),
        features,
        {"x": BOTH},
    ),
    "spectrum_inside": (lambda: Spectrum(16, 3, center=False), features, {"x": BOTH}),
    "unfolded": (Unfolded, features, {"x": BOTH}),
    "lstm": (lambda: Recurrent(nn.LSTM), features, {"x": BOTH}),
    "gru": (lambda: Recurrent(nn.GRU), features, {"x": BOTH}),
    "rnn": (lambda: Recurrent(nn.RNN), features, {"x": BOTH}),
    "encoder": (encoder, lambda b, t: {"src": torch.randn(b, t, 16)}, {"src": BOTH}),
    "bert_masked": (bert, masked_ids, {"input_ids": BOTH, "attention_mask": BOTH}),
    "qwen": (qwen, ids, {"input_ids": {1: TOKENS}}),
    "qwen_masked": (qwen, masked_ids, {"input_ids": BOTH, "attention_mask": BOTH}),
}


def tensors(result):
    result = result.to_tuple() if hasattr(result, "to_tuple") else result
    leaves = torch.utils._pytree.tree_leaves(result)
    return [leaf.detach() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def run(package, inputs):
    arrays = {
        name: value.numpy().astype(np.int32 if value.dtype is torch.int64 else np.float32)
        for name, value in inputs.items()
    }
    return [torch.as_tensor(np.asarray(value)) for value in package(arrays).values()]


def assert_close(found, wanted, bound):
    assert len(found) == len(wanted) > 0
    for got, want in zip(found, wanted, strict=True):
        assert got.shape == want.shape
        assert float((got - want).norm() / want.norm()) < bound


@pytest.mark.parametrize("name", CASES)
def test_every_size_equals_the_original(name):
    build, draw, shapes = CASES[name]
    torch.manual_seed(0)
    model = build().eval()
    example = draw(*(EXAMPLE if name != "qwen" else (1, EXAMPLE[1])))
    optimized = optimize_for_ane(model, kwargs=example, dynamic_shapes=shapes)
    package = load(convert(optimized, **FP32))
    for batch, tokens in SIZES:
        inputs = draw(1 if name == "qwen" else batch, tokens)
        wanted = tensors(model(**inputs))
        assert_close(tensors(optimized(**inputs)), wanted, 1e-5)
        assert_close(run(package, inputs), wanted, 1e-5)
        with pytest.raises(AssertionError):  # the comparison can fail
            assert_close(run(package, inputs), [value * 1.001 for value in wanted], 1e-5)


def test_half_precision_keeps_the_sizes():
    build, draw, shapes = CASES["bert_masked"]
    torch.manual_seed(0)
    model = build().eval()
    optimized = optimize_for_ane(model, kwargs=draw(*EXAMPLE), dynamic_shapes=shapes)
    package = load(convert(optimized, skip_model_load=True))
    for batch, tokens in SIZES:
        inputs = draw(batch, tokens)
        assert_close(run(package, inputs), tensors(model(**inputs)), 1e-2)


def test_verify_at_another_size():
    model, tokens = nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval(), Dim("tokens", min=2, max=64)
    options = {"dynamic_shapes": {"input": {1: tokens}}}
    x = torch.randn(1, 24, 8)
    mlmodel = convert(optimize_for_ane(model, (x,), **options), skip_model_load=True)
    original = Original.of(model, (x,), metadata=mlmodel.user_defined_metadata, **options)
    assert verify(mlmodel, original.with_inputs({"input": torch.randn(1, 40, 8)}))
    assert verify(mlmodel, model, (torch.randn(1, 7, 8),), **options)
    with pytest.raises(VerificationError, match="wrong shape"):
        original.with_inputs({"input": torch.randn(1, 40, 9)})


def test_verify_an_optimized_model_with_keywords():
    build, draw, shapes = CASES["bert_masked"]
    torch.manual_seed(0)
    optimized = optimize_for_ane(build().eval(), kwargs=draw(*EXAMPLE), dynamic_shapes=shapes)
    mlmodel = convert(optimized, skip_model_load=True)
    assert verify(mlmodel, optimized, kwargs=draw(2, 17))
    with pytest.raises(VerificationError, match="do not fit"):
        verify(mlmodel, optimized, kwargs={"nonsense": torch.ones(1)})


def enumerated(mlmodel):
    arrays = [entry.type.multiArrayType for entry in mlmodel.get_spec().description.input]
    return [[tuple(shape.shape) for shape in array.enumeratedShapes.shapes] for array in arrays]


def test_listed_sizes_of_several_inputs():
    build, draw, shapes = CASES["bert_masked"]
    torch.manual_seed(0)
    model = build().eval()
    optimized = optimize_for_ane(model, kwargs=draw(*EXAMPLE), dynamic_shapes=shapes)
    sizes = {"tokens": [16, 8], "batch": [2]}
    with pytest.raises(LoweringError, match="one such input below iOS18"):
        convert(optimized, sizes=sizes, **FP32)
    mlmodel = convert(optimized, sizes=sizes, minimum_deployment_target=ct.target.iOS18, **FP32)
    assert enumerated(mlmodel) == [[(2, 8), (2, 16)]] * 2
    package = load(mlmodel)
    for tokens in (8, 16):
        inputs = draw(2, tokens)
        assert_close(run(package, inputs), tensors(model(**inputs)), 1e-5)
    with pytest.raises(AnePassesError):
        run(package, draw(2, 9))


class Doubled(nn.Module):
    def forward(self, x, y):
        return torch.cat([x, x]) + y


def test_sizes_derived_from_listed_ones():
    rows = Dim("rows", min=1, max=8)
    pair = torch.randn(2, 3), torch.randn(4, 3)
    program = capture(Doubled(), pair, dynamic_shapes={"x": {0: rows}, "y": {0: 2 * rows}})
    options = {**FP32, "minimum_deployment_target": ct.target.iOS18}
    mlmodel = convert(program, sizes={"rows": [1, 3]}, **options)
    assert enumerated(mlmodel) == [[(1, 3), (3, 3)], [(2, 3), (6, 3)]]
    inputs = {"x": torch.randn(3, 3), "y": torch.randn(6, 3)}
    assert_close(run(load(mlmodel), inputs), [Doubled()(**inputs)], 1e-6)
    one = convert(program, sizes={"rows": [2]}, **FP32)
    assert [
        tuple(entry.type.multiArrayType.shape) for entry in one.get_spec().description.input
    ] == [
        (2, 3),
        (4, 3),
    ]


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"columns": [1]}, "names 'columns', which is no dynamic size"),
        ({"rows": []}, "no legal sizes"),
        ({"rows": [4, 9]}, "found: 9"),
        ({}, "must list every dynamic size"),
    ],
)
def test_sizes_that_do_not_fit(sizes, text):
    rows = Dim("rows", min=1, max=8)
    program = capture(Doubled(), (torch.randn(2, 3), torch.randn(4, 3)),
                      dynamic_shapes={"x": {0: rows}, "y": {0: 2 * rows}})  # fmt: skip
    with pytest.raises(LoweringError) as caught:
        convert(program, sizes=sizes, **FP32)
    assert text in str(caught.value)


def test_too_many_listed_sizes():
    program = capture(nn.ReLU(), (torch.randn(3, 9),), dynamic_shapes={"input": BOTH})
    with pytest.raises(LoweringError, match="more shapes than Core ML takes"):
        convert(program, sizes={"batch": range(1, 9), "tokens": range(2, 30)}, **FP32)
