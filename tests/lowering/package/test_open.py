"""Whatever is given in place of a package: one error, the same from every reader."""

import json
import shutil
import zipfile

import coremltools as ct
import pytest
import torch
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from coremltools.proto import Model_pb2
from torch import nn

from lowering import convert, plan, save
from lowering.ablation.compare import compare
from lowering.errors import PackageError
from lowering.package.open import open_package
from lowering.planner.mil_stats import mil_stats, weight_bytes
from lowering.reference import load

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n".format("0" * 64)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("package") / "net.mlpackage"
    return save(convert(nn.Sequential(nn.Linear(64, 32), nn.ReLU()), (torch.ones(1, 64),)), path)


@pytest.fixture
def package(original, tmp_path):
    return shutil.copytree(original, tmp_path / "net.mlpackage")


def story(path):
    """What every reader says of ``path``: one message, with what was found and a next step."""
    texts = set()
    for read in (load, plan, mil_stats, weight_bytes, lambda path: compare(path, path)):
        with pytest.raises(PackageError) as caught:
            read(path)
        texts.add(str(caught.value))
        assert caught.value.details["next step"], texts
        assert caught.value.details["found"] or caught.value.details["expected"], texts
    (text,) = texts
    return text


def manifest(package, change):
    file = package / "Manifest.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def root_path(package, path):
    def change(content):
        content["itemInfoEntries"][content["rootModelIdentifier"]]["path"] = path

    manifest(package, change)


def test_a_good_package_is_read(package):
    opened = open_package(package)
    assert opened.label == str(package)
    assert list(opened.program.functions) == ["main"]
    assert weight_bytes(package) == (package / WEIGHTS).stat().st_size


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "corrupt"),
        ("{", "corrupt"),
        ("[]", "'rootModelIdentifier', a JSON string"),
        ("null", "'rootModelIdentifier', a JSON string"),
        ('{"rootModelIdentifier": 3}', "'rootModelIdentifier', a JSON string"),
        ('{"rootModelIdentifier": "A"}', "'itemInfoEntries', a JSON object"),
        ('{"rootModelIdentifier": "A", "itemInfoEntries": []}', "'itemInfoEntries', a JSON object"),
        ('{"rootModelIdentifier": "A", "itemInfoEntries": {"B": {}}}', "root item 'A'"),
        ('{"rootModelIdentifier": "A", "itemInfoEntries": {"A": {"path": 4}}}', "root item 'A'"),
        ('{"rootModelIdentifier": "A", "itemInfoEntries": {"A": {"path": ""}}}', "root item 'A'"),
        ("[" * 100_000, "corrupt"),
        (POINTER, "manifest is a Git LFS pointer"),
    ],
)
def test_broken_manifests(package, content, text):
    (package / "Manifest.json").write_text(content)
    assert text in story(package)


def test_a_manifest_that_is_no_text(package):
    (package / "Manifest.json").write_bytes(b"\xff\xfe\x00")
    assert "corrupt" in story(package)


@pytest.mark.parametrize("name", ["../../other/model.mlmodel", "../../../model.mlmodel"])
def test_manifests_that_lead_out_are_refused(package, name):
    target = (package / "Data" / name).resolve()
    target.parent.mkdir(exist_ok=True)
    shutil.copy(package / MODEL, target)
    root_path(package, name)
    assert "lies outside of it; it is not read" in story(package)


def test_an_absolute_path_in_a_manifest_is_refused(package, tmp_path):
    shutil.copy(package / MODEL, tmp_path / "elsewhere.mlmodel")
    root_path(package, str(tmp_path / "elsewhere.mlmodel"))
    assert "lies outside of it; it is not read" in story(package)


@pytest.mark.parametrize("name", [MODEL, WEIGHTS, "Manifest.json", "Data"])
def test_links_that_lead_out_are_refused(package, tmp_path, name):
    (package / name).rename(tmp_path / "elsewhere")
    (package / name).symlink_to(tmp_path / "elsewhere")
    text = story(package)
    assert "lies outside of it; it is not read" in text and "cp -RL" in text


def test_links_inside_a_package_are_followed(package):
    (package / MODEL).rename(package / "Data" / "real.mlmodel")
    (package / MODEL).symlink_to(package / "Data" / "real.mlmodel")
    assert plan(package).ops


def test_a_link_to_a_package_is_one(package, tmp_path):
    (tmp_path / "link").symlink_to(package)
    assert plan(tmp_path / "link").ops


def test_links_in_a_circle(package):
    (package / MODEL).unlink()
    (package / MODEL).symlink_to(package / MODEL)
    assert "model" in story(package)


@pytest.mark.parametrize("name", ["@model_path/../../../w.bin", "/w.bin", "../w.bin", "", "a\0b"])
def test_weights_named_outside_of_the_package_are_refused(package, name):
    def change(spec):
        for operation in operations(spec):
            if operation.type == "const":
                value = operation.attributes["val"]
                if value.WhichOneof("value") == "blobFileValue":
                    value.blobFileValue.fileName = name

    rewrite(package, change)
    assert "weights from outside of the package" in story(package)


@pytest.mark.parametrize(
    ("name", "what"), [(MODEL, "model file"), (WEIGHTS, "weights file"), ("Manifest.json", "mani")]
)
def test_git_lfs_pointers_are_named(package, name, what):
    (package / name).write_text(POINTER)
    text = story(package)
    assert f"the package's {what}" in text and "12,345 bytes" in text and "git lfs pull" in text


def test_a_pointer_in_place_of_a_package(tmp_path):
    (tmp_path / "net.mlpackage").write_text(POINTER)
    assert "this is a Git LFS pointer" in story(tmp_path / "net.mlpackage")


def test_missing_weights(package):
    (package / WEIGHTS).unlink()
    assert "weights file is missing" in story(package)
    shutil.rmtree((package / WEIGHTS).parent)
    assert "weights file is missing" in story(package)


def test_programs_without_functions(package):
    rewrite(package, lambda spec: spec.mlProgram.functions.clear())
    assert "no functions" in story(package)


def test_functions_without_operations(package):
    def change(spec):
        spec.mlProgram.functions["main"].block_specializations.clear()

    rewrite(package, change)
    assert "no block at all" in story(package)


def rewrite(package, change):
    spec = Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    change(spec)
    (package / MODEL).write_bytes(spec.SerializeToString())


def operations(spec):
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


def network(kind):
    shapes = [("x", datatypes.Array(4))], [("y", datatypes.Array(4))]
    builder = NeuralNetworkBuilder(*shapes, disable_rank5_shape_mapping=True, mode=kind)
    builder.add_activation("relu", "RELU", "x", "y")
    return builder.spec


def tree():
    spec = Model_pb2.Model(specificationVersion=4)
    spec.treeEnsembleRegressor.treeEnsemble.numPredictionDimensions = 1
    return spec


def linear():
    spec = Model_pb2.Model(specificationVersion=4)
    spec.glmRegressor.offset.append(0.0)
    return spec


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: network(None), "a neural network of the older kind"),
        (lambda: network("regressor"), "a neural network of the older kind"),
        (tree, "a tree ensemble"),
        (linear, "a generalized linear model"),
        (Model_pb2.Model, "an empty model"),
    ],
)
def test_other_models_are_named(make, what, package, tmp_path):
    (tmp_path / "other.mlmodel").write_bytes(make().SerializeToString())
    assert what in story(tmp_path / "other.mlmodel")
    (package / MODEL).write_bytes(make().SerializeToString())
    assert what in story(package)


def test_a_bare_mlmodel_with_a_program(package, tmp_path):
    shutil.copy(package / MODEL, tmp_path / "bare.mlmodel")
    assert "an ML Program without its package" in story(tmp_path / "bare.mlmodel")


def compiled(path):
    path.mkdir()
    (path / "coremldata.bin").write_bytes(b"\0")


def archive(*names):
    def make(path):
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, "{}")

    return make


@pytest.mark.parametrize(
    ("name", "make", "what"),
    [
        ("net.mlmodelc", compiled, "a compiled Core ML model"),
        ("net", compiled, "a compiled Core ML model"),
        ("net.onnx", lambda path: path.write_bytes(b"\x08\x07"), "an ONNX model"),
        ("net.pt", archive("net/code/__torch__.py", "net/data.pkl"), "a TorchScript program"),
        ("net.pt", archive("archive/data.pkl"), "a checkpoint of torch.save"),
        ("net.zip", archive("net.mlpackage/Manifest.json"), "a zip archive with a package in it"),
        ("net.mlpackage", lambda path: path.write_text(""), "an empty file"),
        ("net", lambda path: path.mkdir(), "an empty folder"),
    ],
)
def test_other_files_are_named(tmp_path, name, make, what):
    make(tmp_path / name)
    assert f"this is not a package but {what}" in story(tmp_path / name)


def test_parts_and_parents_of_a_package(package):
    assert f"give the package: {package}" in story(package / "Data")
    assert f"give the package: {package}" in story(package / WEIGHTS)
    assert f"give the package: {package}" in story(package.parent)
    assert "no package at this path" in story(package / "nothing")


def test_other_objects_are_refused():
    assert "this is not a package" in story_of_object(nn.ReLU())
    assert "but a neural network" in story_of_object(ct.models.MLModel(network(None)))


def story_of_object(value):
    with pytest.raises(PackageError) as caught:
        open_package(value)
    return str(caught.value)
