"""Compressed packages are held against the model with the values that they decode."""

import shutil

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
import torch
from torch import nn

import passes
from lowering import compress, convert, load, save, verify
from lowering.package.open import open_package
from lowering.reference.stored_weights import stored_weights
from lowering.verification import Original


class Images(nn.Module):
    """Batch norms and a scale that coremltools folds into convolutions; a last product."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3)
        self.norm = nn.BatchNorm2d(24)
        self.second = nn.Conv2d(24, 100, 3, groups=1)
        self.gain = nn.Parameter(torch.rand(100, 1, 1) + 0.5)
        self.up = nn.ConvTranspose2d(100, 16, 2, stride=2)
        self.head = nn.Linear(16, 160)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.second(x) * self.gain)
        return self.head(self.up(x).mean((2, 3)))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(96, 48)
        layer = nn.TransformerEncoderLayer(48, 4, 96, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, ids):
        return self.encoder(self.table(ids))


class Matrices(nn.Module):
    """Products whose constant side is on the left, and on the right."""

    def __init__(self):
        super().__init__()
        self.left = nn.Parameter(torch.randn(64, 80) / 9)
        self.right = nn.Parameter(torch.randn(40, 72) / 6)

    def forward(self, x):
        return torch.relu(self.left @ x) @ self.right


def case(kind):
    torch.manual_seed(0)
    model = kind()
    if kind is Images:
        for _ in range(3):
            model(torch.randn(4, 3, 10, 10) * 2 + 1)
        return model.eval(), (torch.randn(1, 3, 10, 10),)
    ids = torch.randint(0, 96, (1, 12))
    return model.eval(), (ids,) if kind is Words else (torch.randn(1, 80, 40),)


@pytest.fixture(scope="module", params=[Images, Words, Matrices], ids=lambda kind: kind.__name__)
def made(request, tmp_path_factory):
    """A model, its inputs, its package, and one for comparison through all passes."""
    model, args = case(request.param)
    folder = tmp_path_factory.mktemp(request.param.__name__)
    target = ct.target.iOS18
    plain = convert(model, args, minimum_deployment_target=target)
    best = convert(passes.optimize_for_ane(model, args), minimum_deployment_target=target)
    packages = save(plain, folder / "plain"), save(best, folder / "best")
    originals = [Original.of(model, args, metadata=load(one).metadata) for one in packages]
    return model, args, packages, originals


@pytest.mark.parametrize("rung", ["int8", "pal4", "pal4-grouped", "int4-block", "joint"])
def test_compressed_packages_verify(made, tmp_path, rung):
    _, _, packages, originals = made
    for place, (package, original) in enumerate(zip(packages, originals, strict=True)):
        small = compress(package, rung, tmp_path / f"{place}.mlpackage")
        found = verify(small, original)
        faults = [(w.name, w.fault) for w in found.compression.weights]
        assert found, (faults, found.outputs)
        assert found.compression is not None
        (lost,) = found.compression.lost
        assert lost.rounding < lost.weights
        assert abs(lost.total - lost.weights) <= 2 * lost.rounding
        assert not lost.activations
        names = {weight.name for weight in small.weights if weight.rung}
        assert {weight.name for weight in found.compression.weights} == names
        assert all(weight.node for weight in found.compression.weights)


class Scaled(nn.Module):
    """A product that one number multiplies or divides, which ends in its weight."""

    def __init__(self, product, by):
        super().__init__()
        self.product, self.by = product, by

    def forward(self, x):
        return torch.tanh(self.by(self.product(x)))


@pytest.mark.parametrize(
    ("product", "by"),
    [(nn.Linear(48, 64), lambda x: x * 30), (nn.Linear(48, 64), lambda x: x / 0.25),
     (nn.Conv1d(6, 64, 8), lambda x: x * 4 / 0.5)],
)  # fmt: skip
def test_numbers_that_end_in_a_weight(product, by, tmp_path):
    model = Scaled(product, by).eval()
    args = (torch.randn(1, 6, 48),)
    target = ct.target.iOS18
    made = convert(passes.optimize_for_ane(model, args), minimum_deployment_target=target)
    small = compress(save(made, tmp_path / "a"), "int8", tmp_path / "b.mlpackage")
    found = verify(small, Original.of(model, args, metadata=load(small).metadata))
    assert found and [weight.fault for weight in found.compression.weights] == [""]


TOOLS = {
    "int8": (cto.linear_quantize_weights, cto.OpLinearQuantizerConfig()),
    "int8 with offsets": (cto.linear_quantize_weights, cto.OpLinearQuantizerConfig(mode="linear")),
    "uint4 blocks": (
        cto.linear_quantize_weights,
        cto.OpLinearQuantizerConfig(dtype="uint4", granularity="per_block", block_size=8),
    ),
    "steps": (cto.palettize_weights, cto.OpPalettizerConfig(mode="uniform", nbits=6)),
    "pruned": (cto.prune_weights, cto.OpMagnitudePrunerConfig(target_sparsity=0.6)),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_packages_of_coremltools_verify(made, tmp_path, tool):
    model, _, (package, _), (original, _) = made
    apply, config = TOOLS[tool]
    if tool == "steps" and isinstance(model, Images):
        config = cto.OpPalettizerConfig(mode="uniform", nbits=8)
    whole = ct.models.MLModel(str(package), skip_model_load=True)
    small = save(apply(whole, cto.OptimizationConfig(global_config=config)), tmp_path / "small")
    assert list(stored_weights(open_package(small)))
    found = verify(small, original)
    faults = [(w.name, w.fault) for w in found.compression.weights]
    assert found, (faults, found.outputs)


def test_integer_activations_are_a_cause_of_their_own(made, tmp_path):
    _, _, (package, _), (original, _) = made
    call = {name: value.numpy() for name, value in original.inputs().items()}
    call = {name: a.astype(np.int32) if a.dtype.kind == "i" else a for name, a in call.items()}
    small = compress(package, "w8a8", tmp_path / "small.mlpackage", inputs=[call])
    found = verify(small, original)
    assert found, found.outputs
    (lost,) = found.compression.lost
    assert lost.rounding < lost.activations
    assert lost.total <= 1.01 * (lost.weights + lost.activations + lost.rounding)


def test_a_task_is_judged_by_the_package_and_the_model_as_they_are(made, tmp_path):
    _, _, (package, _), (original, _) = made
    small = compress(package, "pal2", tmp_path / "small.mlpackage")
    found = verify(small, original, metric="cosine", at_least=0)
    assert found
    assert found.agreement.mean < 0.9999
    assert 1 - found.agreement.mean == pytest.approx(
        found.compression.lost[0].total ** 2 / 2, rel=2
    )


def test_weights_of_another_model_are_named(made, tmp_path):
    model, args, (package, _), _ = made
    small = compress(package, "int8", tmp_path / "small.mlpackage")
    other, _ = case(type(model))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(parameter.roll(1, 0) * 1.01)
    found = verify(small, other, args, locate=False)
    assert not found
    assert not found.compression.passed
    assert any(weight.fault for weight in found.compression.weights)


@pytest.mark.parametrize("rung", ["int8", "pal4", "pal4-grouped"])
def test_a_damaged_part_is_named(made, tmp_path, rung):
    """One scale, or one entry of a palette, is another number than it was."""
    _, _, (package, _), (original, _) = made
    small = compress(package, rung, tmp_path / "small.mlpackage").package
    damaged = shutil.copytree(small, tmp_path / "damaged.mlpackage")
    opened = open_package(damaged)
    op = next(
        op for op in opened.function("main")[1].operations if op.type.startswith("constexpr_")
    )
    part = op.inputs["scale" if rung == "int8" else "lut"].arguments[0].value.blobFileValue
    file = damaged / "Data/com.apple.CoreML/weights/weight.bin"
    content = bytearray(file.read_bytes())
    start = int.from_bytes(content[part.offset + 16 : part.offset + 24], "little")
    content[start + 1] ^= 0x08  # the exponent of the first number
    file.write_bytes(content)
    found = verify(damaged, original, locate=False)
    assert not found
    (wrong,) = (weight for weight in found.compression.weights if weight.fault)
    assert wrong.name == op.outputs[0].name
    assert "times too far off" in wrong.fault or "no weight" in wrong.fault


def test_a_weight_left_divided_is_located(tmp_path):
    """coremltools 9.0 skips it, and leaves it divided by its channels' scales."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 60, 3), nn.ReLU(), nn.Conv2d(60, 64, 3)).eval()
    args = (torch.randn(1, 3, 8, 8),)
    package = save(
        convert(model, args, minimum_deployment_target=ct.target.iOS18), tmp_path / "net.mlpackage"
    )
    whole = ct.models.MLModel(str(package), skip_model_load=True)
    config = cto.OpPalettizerConfig(
        mode="uniform",
        nbits=4,
        granularity="per_grouped_channel",
        group_size=16,
        enable_per_channel_scale=True,
        weight_threshold=1000,
    )
    wrong = cto.palettize_weights(whole, cto.OptimizationConfig(global_config=config))
    found = verify(wrong, model, args)
    assert not found
    assert found.divergence is not None
    assert "conv" in found.divergence.op_type
    assert verify(compress(package, "pal4-grouped"), model, args)
