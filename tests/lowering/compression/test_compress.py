"""Packages with smaller weights: what is stored, what is left, and what is refused."""

import shutil
from dataclasses import replace

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from frontend.errors import InputError
from lowering import compress, convert, load, multifunction, predict, save
from lowering.compression import palettes
from lowering.compression.compressing import COMPRESSION_KEY
from lowering.compression.decode import prove
from lowering.compression.encoding import encode
from lowering.compression.rungs import NAMES, rung_of
from lowering.compression.sites import WeightSite, sites
from lowering.errors import CompressionError, SaveError
from lowering.package.dtypes import FP16
from lowering.package.open import open_package
from lowering.package.proto import MIL_pb2
from lowering.reference.stored_weights import stored_weights


class Net(nn.Module):
    """A convolution, a transposed one, a product and a table; 60 channels fit no group of 16."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(96, 32)
        self.first = nn.Conv1d(32, 60, 3, padding=1)
        self.second = nn.ConvTranspose1d(60, 32, 3, padding=1)
        self.linear = nn.Linear(32, 96)

    def forward(self, ids):
        x = self.table(ids).transpose(1, 2)
        x = self.second(torch.relu(self.first(x)))
        return self.linear(x.transpose(1, 2))


def made(path, target, seed=0):
    torch.manual_seed(seed)
    ids = torch.arange(24)[None] % 96
    return save(convert(Net().eval(), (ids,), minimum_deployment_target=target), path)


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    return made(tmp_path_factory.mktemp("new") / "net.mlpackage", ct.target.iOS18)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return made(tmp_path_factory.mktemp("old") / "net.mlpackage", ct.target.iOS16)


IDS = {"ids": np.arange(24, dtype=np.int32)[None]}
# Relative error of the output that a rung may cause in this net, twice what it was found to be.
ERRORS = {"int8": 0.01, "pal8": 0.01, "pal6": 0.05, "pal4": 0.2, "pal6-grouped": 0.05}


def site_of(package, word):
    return next(one for one in sites(open_package(package).function("main")[1]) if word in one.name)


def difference(one, other):
    a, b = (next(iter(predict(package, IDS).values())).astype(float) for package in (one, other))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("rung", [*NAMES, "pal4-grouped8", "int4-block16", "sparse75", "joint75"])
def test_every_rung_is_stored_and_within_its_bound(new, tmp_path, rung):
    found = compress(new, rung, tmp_path / "small.mlpackage")
    stored = [weight for weight in found.weights if weight.rung]
    assert len(stored) >= 3
    assert found.bytes_after < found.bytes_before
    for weight in stored:
        assert weight.after < weight.before
        assert 0 < weight.error < 1
        assert weight.of_bound <= 1
    assert difference(found.package, new) < ERRORS.get(rung, 1)
    assert load(found.package).metadata[COMPRESSION_KEY] == rung
    # A second time, and elsewhere: the same bytes.
    again = compress(new, rung, tmp_path / "again.mlpackage")
    for file in ("model.mlmodel", "weights/weight.bin"):
        place = f"Data/com.apple.CoreML/{file}"
        assert (found.package / place).read_bytes() == (again.package / place).read_bytes()


@pytest.mark.parametrize("rung", ["int8", "pal8", "pal4", "pal2", "sparse"])
def test_both_forms_hold_the_same_numbers(old, new, tmp_path, rung):
    values = [
        {
            stored.name: stored.value
            for stored in stored_weights(
                open_package(compress(package, rung, tmp_path / f"{place}.mlpackage"))
            )
        }
        for place, package in enumerate((old, new))
    ]
    assert len(values[0]) >= 3
    for name, value in values[0].items():
        assert torch.equal(value, values[1][name]), name


def test_ours_are_coremltools_own_bits_read_by_coremltools(new, tmp_path):
    """What coremltools decodes from our file, with its own code, is what our interpreter does."""
    for rung in ("int8", "pal4-grouped", "int4-block", "joint"):
        small = compress(new, rung, tmp_path / f"{rung}.mlpackage")
        model = ct.models.MLModel(str(small.package), skip_model_load=True)
        dense = ct.optimize.coreml.decompress_weights(model)
        a, b = (next(iter(predict(one, IDS).values())) for one in (dense, small.package))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "channels", "groups"),
    [
        ((64, 36), 0, (4, 1)),
        ((60, 36), 0, (4, 1)),  # of 15
        ((61, 36), 0, (1, 3)),  # of 12 on the other axis
        ((61, 59), 0, (1, 1)),
        ((36, 64, 3, 3), 1, (1, 4, 1, 1)),
        ((8, 300), 0, (1, 1)),
    ],
)
def test_a_group_that_does_not_fit_becomes_one_that_does(shape, channels, groups):
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    site = WeightSite("w", MIL_pb2.Operation(), FP16, shape, ("conv y",), channels, 1 - channels)
    (decoder,) = encode(site, weight, rung_of("pal4-grouped"))
    assert decoder.parts["lut"].array.shape == (*groups, 16, 1)


def test_functions_keep_what_they_share(new, tmp_path):
    both = multifunction.merge({"one": new, "two": new}, tmp_path / "both.mlpackage")
    found = compress(both, "int8", tmp_path / "small.mlpackage")
    alone = compress(new, "int8", tmp_path / "alone.mlpackage")
    assert {weight.function for weight in found.weights} == {"one", "two"}
    sizes = [
        (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
        for package in (found.package, alone.package)
    ]
    assert sizes[0] == sizes[1]
    for function in ("one", "two"):
        assert load(found.package, function=function)(IDS).keys()


def test_weights_that_are_left_are_bit_equal(new, tmp_path):
    found = compress(new, "int4-block100", tmp_path / "small.mlpackage")
    left = [weight for weight in found.weights if weight.why_left]
    assert left
    packages = [open_package(one) for one in (new, found.package)]
    for weight in left:
        arrays = [
            package.weights.stored(site.value)
            for package in packages
            for site in sites(package.function("main")[1])
            if site.name == weight.name
        ]
        assert np.array_equal(*arrays)


@pytest.mark.parametrize("rung", ["int8", "pal4", "pal4-grouped", "int4-block", "sparse", "joint"])
@pytest.mark.parametrize("wrong", ["scaled", "one element", "another channel"])
def test_a_wrong_weight_is_caught(new, tmp_path, rung, wrong):
    site = next(
        site for site in sites(open_package(new).function("main")[1]) if "linear" in site.name
    )
    weight = open_package(new).weights.stored(site.value)
    assert not isinstance(encode(site, weight, rung_of(rung)), str)
    small = compress(new, rung, tmp_path / "small.mlpackage")
    (stored,) = (one for one in stored_weights(open_package(small)) if one.name == site.name)
    prove(weight, stored, rung_of(rung))
    value = stored.value.clone().reshape(weight.shape)
    if wrong == "scaled":
        value /= 1.5
    elif wrong == "one element":
        value.view(-1)[int(value.abs().argmax())] *= 0.5
    else:
        value = value.roll(1, 0)
    changed = replace(stored, value=value)
    with pytest.raises(CompressionError, match="does not decode"):
        prove(weight, changed, rung_of(rung))


@pytest.mark.parametrize(
    "numbers",
    [
        np.zeros(5000),
        np.full(5000, 3.0),
        np.linspace(-1, 1, 5000),
        np.concatenate([np.random.default_rng(0).normal(0, 0.02, 5000), [3.0, -2.5]]),
        np.random.default_rng(1).choice([-1.0, 0.5, 0.25], 5000),
        np.random.default_rng(2).normal(0, 1e-6, 5000),
    ],
    ids=["zeros", "one value", "even", "outliers", "three values", "tiny"],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_palettes_are_near_the_best(numbers, dtype):
    from coremltools._deps import _kmeans1d

    values = numbers.astype(dtype)
    table, places = palettes.palette(values, 4)
    assert len(table) == 16
    square = np.sum((table[places].astype(float) - values) ** 2)
    clusters, centres = _kmeans1d.cluster(values.astype(float).tolist(), 16)
    best = np.sum((np.array(centres)[clusters] - values.astype(float)) ** 2)
    spacing = np.finfo(dtype).eps * np.abs(values).max() + np.finfo(dtype).smallest_subnormal
    assert square <= 1.05 * best + values.size * spacing**2


def refused(kind, words, *arguments):
    with pytest.raises(kind) as caught:
        compress(*arguments)
    for word in words:
        assert word in str(caught.value)


def test_bad_input_is_one_error_and_nothing_is_written(new, old, tmp_path):
    out = tmp_path / "small.mlpackage"
    refused(InputError, ["no rung 'pal5'", "pal6", "next step"], new, "pal5", out)
    for rung in ("pal4-grouped", "int4-block", "joint", "pal3"):
        refused(InputError, ["iOS 18", "CoreML6", "--deployment-target"], old, rung, out)
    assert not list(tmp_path.iterdir())
    small = compress(new, "int8", tmp_path / "int8.mlpackage")
    refused(InputError, ["compressed already", "int8.mlpackage"], small.package, "pal4", out)
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    refused(SaveError, ["not a package"], new, "int8", out)
    assert [file.name for file in out.iterdir()] == ["notes.txt"]
    shutil.rmtree(out)
    assert [file.name for file in tmp_path.iterdir()] == ["int8.mlpackage"]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(new, tmp_path, wrong):
    broken = shutil.copytree(new, tmp_path / "broken.mlpackage")
    site = next(
        site for site in sites(open_package(new).function("main")[1]) if "first" in site.name
    )
    offset = site.value.blobFileValue.offset
    file = broken / "Data/com.apple.CoreML/weights/weight.bin"
    content = bytearray(file.read_bytes())
    start = int.from_bytes(content[offset + 16 : offset + 24], "little")
    content[start + 10 : start + 12] = np.float16(wrong).tobytes()
    file.write_bytes(content)
    for rung in ("int8", "pal4", "sparse"):
        refused(
            InputError, ["not finite", site.name, "conv"], broken, rung, tmp_path / "o.mlpackage"
        )
    assert [file.name for file in tmp_path.iterdir()] == ["broken.mlpackage"]


def test_a_package_without_large_weights_is_refused(tmp_path):
    tiny = save(convert(nn.Linear(8, 8), (torch.ones(1, 8),)), tmp_path / "tiny.mlpackage")
    refused(InputError, ["no weight", "2048"], tiny, "int8", tmp_path / "small.mlpackage")


def test_missing_k_means_names_the_extra(new, tmp_path, monkeypatch):
    monkeypatch.setattr("coremltools._deps._HAS_KMEANS1D", False)
    monkeypatch.setitem(__import__("sys").modules, "sklearn.cluster", None)
    out = tmp_path / "small.mlpackage"
    refused(InputError, ["scikit-learn", "ane-passes[compress]"], new, "pal4", out)
    assert not list(tmp_path.iterdir())
