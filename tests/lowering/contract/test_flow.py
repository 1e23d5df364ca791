"""From a model and a picture to a package that is proven on raw pictures."""

import json
import warnings
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from torch import nn

import lowering
from lowering.cli import main
from lowering.cli.task import KINDS
from lowering.cli.verify import METRIC_NAMES
from lowering.contract.names import CONTRACT, CONTRACT_KEY
from lowering.contract.reading import contract_of
from lowering.contract.tasks import TASKS
from lowering.contract.verifying import OtherContractWarning
from lowering.verification.metrics import METRICS
from tests.lowering.contract.shipping_models import LABELS, MEAN, STD, classifier, exported, picture


def saved(folder, path):
    return lowering.save(lowering.convert(folder, skip_model_load=True), path)


def run(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.output


def test_the_command_line_knows_all_kinds():
    assert set(KINDS) == set(TASKS)
    assert set(METRIC_NAMES) == set(METRICS)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A folder as ``save_pretrained`` writes it, with labels of which two are equal."""
    folder = tmp_path_factory.mktemp("hub") / "vit"
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        id2label=dict(enumerate([*LABELS, "cat"])),
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessorPil(
        size={"height": 16, "width": 16}, image_mean=MEAN, image_std=STD, resample=3
    ).save_pretrained(folder)
    return folder


def test_three_commands_from_transformers_to_a_verified_package(vit, tmp_path):
    picture().save(tmp_path / "photo.jpg")
    folder, package = tmp_path / "vit", tmp_path / "vit.mlpackage"
    assert run("export", vit, "-o", folder, "--top-k", 3)[0] == 0
    assert run("convert", folder, "-o", package)[0] == 0
    code, output = run("verify", package, folder, "--pictures", tmp_path / "photo.jpg")
    assert code == 0, output
    assert "photo.jpg" in output

    processor = transformers.AutoImageProcessor.from_pretrained(vit)
    model = transformers.ViTForImageClassification.from_pretrained(vit)
    numbers = processor(picture_of(tmp_path / "photo.jpg"), return_tensors="pt")
    with torch.no_grad():
        want = model(**numbers).logits.softmax(-1)[0].numpy()
    found = lowering.predict(package, {"pixel_values": tmp_path / "photo.jpg"})
    labels = ["ant", "bee", "cat (2)", "dog", "eel", "cat (5)"]
    assert list(found["label_probs"]) == labels
    np.testing.assert_allclose(list(found["label_probs"].values()), want, rtol=5e-3)
    assert found["label"] == labels[int(found["top_indices"][0, 0])]
    code, output = run("predict", package, "-i", f"pixel_values={tmp_path / 'photo.jpg'}")
    assert code == 0 and found["label"] in output


def picture_of(path):
    import PIL.Image

    return PIL.Image.open(path)


def test_other_verbs_take_the_folder(tmp_path):
    folder = exported(tmp_path / "net", precision="float16")
    assert lowering.plan(folder, chip="M4").to_json()
    found = lowering.predict(folder, {"input": picture()})
    assert found["label"] in LABELS
    for words in (["check", folder], ["plan", folder], ["optimize", folder]):
        code, output = run(*words)
        assert code == 0, output


@pytest.mark.parametrize("size", [(8, 3), (8, 4), (8, 9)])
@pytest.mark.parametrize("layout", ["RGB", "BGR", "GRAY"])
def test_raw_pictures_go_the_same_way_on_both_sides(size, layout, tmp_path):
    std = (0.225,) if layout == "GRAY" else STD
    mean = (0.45,) if layout == "GRAY" else MEAN
    folder = exported(tmp_path / "net", size=size, layout=layout, mean=mean, std=std)
    package = lowering.convert(folder, skip_model_load=True)
    picture("RGBA").save(tmp_path / "a.png")
    found = lowering.verify(package, folder, pictures=[tmp_path / "a.png", picture()])
    assert found, found
    assert [item.name for item in found.outputs][-1] == "picture input"
    assert all(1 - item.cosine < 1e-9 for item in found.outputs)
    # The model itself, on what PIL and torch make of the same picture.
    image = lowering.open_folder(folder).contract.images["input"]
    model, _ = classifier(size, image.channels)
    numbers = np.asarray(
        picture().convert("L" if layout == "GRAY" else "RGB").resize(size[::-1], 2), np.float32
    ).reshape(*size, -1)[..., :: -1 if layout == "BGR" else 1]
    tensor = torch.tensor((numbers / 255 - mean) / std).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        want = model(tensor).softmax(-1)[0].numpy()
    got = lowering.predict(package, {"input": picture()})
    np.testing.assert_allclose(list(got["label_probs"].values()), want, rtol=1e-4, atol=1e-6)


WRONG = {
    "mean": {"mean": tuple(m * 1.05 for m in MEAN)},
    "std": {"std": tuple(s * 0.95 for s in STD)},
    "order": {"layout": "BGR"},
    "scale": {"scale": 1.05 / 255},
    "filter": {"resize": "bicubic"},
    "antialias": {"antialias": False},
    "crop": {"crop": "center"},
}


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("right") / "net", precision="float16")


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_preprocessing_is_caught(kind, right, tmp_path):
    wrong = exported(tmp_path / "wrong", precision="float16", **WRONG[kind])
    package = lowering.convert(wrong, skip_model_load=True, pipeline=())
    # A gray picture, on which swapped channels do not show.
    with pytest.warns(OtherContractWarning):
        found = lowering.verify(package, right, pictures=[picture("L")], locate=False)
    assert not found, found
    if kind == "mean":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert lowering.verify(package, wrong, pictures=[picture("L")])


def test_a_package_without_contract_is_held_against_one(tmp_path):
    folder = exported(tmp_path / "net", task=False, std=(0.5,), mean=(0.5,))
    model, x = classifier()
    kinds = {
        "right": ct.ImageType(name="input", scale=1 / 127.5, bias=[-1, -1, -1]),
        "bias": ct.ImageType(name="input", scale=1 / 127.5, bias=[-1.05, -1, -1]),
        "none": ct.ImageType(name="input"),
    }
    for name, kind in kinds.items():
        package = lowering.convert(
            model, (x,), inputs=[kind], skip_model_load=True, compute_precision=ct.precision.FLOAT32
        )
        assert bool(lowering.verify(package, folder, locate=False)) == (name == "right")
    plain = lowering.convert(model, (x,), skip_model_load=True)
    with pytest.raises(lowering.ContractError, match="takes numbers, no picture"):
        lowering.verify(plain, folder)


def test_a_missing_resize_is_refused(tmp_path):
    folder = exported(tmp_path / "net", resize="none")
    package = lowering.convert(folder, skip_model_load=True)
    assert lowering.verify(package, folder, pictures=[picture(size=(8, 8))])
    with pytest.raises(lowering.PictureError, match="another size"):
        lowering.verify(package, folder, pictures=[picture()])
    with pytest.raises(lowering.PictureError, match="pictures are needed"):
        lowering.verify(package, folder)


def test_equally_good_classes_may_change_places(tmp_path):
    class Ties(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).repeat(1, 2)[:, :5] * torch.tensor([0.0, 0, 0, 0, 1e-5])

    folder = lowering.export(
        Ties(),
        (torch.rand(1, 3, 4, 4),),
        tmp_path / "ties",
        inputs={"x": lowering.Image((4, 4))},
        task=lowering.Classify(LABELS, top_k=2),
    )
    package = lowering.convert(folder, skip_model_load=True)
    assert lowering.verify(package, folder)


def test_the_contract_is_the_same_after_a_round_trip(tmp_path):
    folder = exported(tmp_path / "net")
    text = (folder / CONTRACT).read_text()
    contract = contract_of(text, "here")
    assert contract.to_text() == text
    assert contract_of(json.dumps(json.loads(text), sort_keys=True), "").digest() == (
        contract.digest()
    )
    package = lowering.convert(folder, skip_model_load=True)
    assert contract_of(package.user_defined_metadata[CONTRACT_KEY], "").to_text() == text
    again = exported(tmp_path / "again")
    assert Path(again / CONTRACT).read_text().count("\n") == text.count("\n")


def wide(folder):
    """A folder whose model has a weight that is large enough to compress."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 96, 8), nn.Flatten(), nn.Linear(96, len(LABELS))).eval()
    inputs = {"input": lowering.Image((8, 8), mean=MEAN, std=STD)}
    task = lowering.Classify(LABELS)
    return lowering.export(model, (torch.randn(1, 3, 8, 8),), folder, inputs=inputs, task=task)


def test_a_folder_is_compressed_and_reported_as_its_package_is(tmp_path):
    folder = wide(tmp_path / "net")
    package = saved(folder, tmp_path / "apart.mlpackage")
    small = lowering.compress(folder, "int8")
    assert small.package == tmp_path / "net-int8.mlpackage"
    wanted = lowering.compress(package, "int8")
    assert small.bytes_after == wanted.bytes_after
    assert lowering.verify(small.package, folder).compression

    climbed = lowering.ladder(folder, rungs=("int8",))
    assert climbed.package == str(folder)
    assert climbed.levels == lowering.ladder(package, folder, rungs=("int8",)).levels

    made = lowering.report(folder, pictures=[picture()], output=tmp_path / "net.html")
    assert made.package.name == "net.mlpackage" and made.accuracy.outputs.passed
    assert "net.mlpackage" in (tmp_path / "net.html").read_text()


def test_the_command_line_compresses_and_reports_folders(tmp_path):
    folder = wide(tmp_path / "net")
    picture().save(tmp_path / "photo.png")
    code, output = run("compress", folder, "--rung", "int8", "-o", tmp_path / "small.mlpackage")
    assert code == 0 and (tmp_path / "small.mlpackage").is_dir(), output
    code, output = run("compress", folder, "--ladder", "--rungs", "int8", "--json")
    assert code == 0 and json.loads(output)["package"] == str(folder)
    words = ("--pictures", tmp_path / "photo.png", "-o", tmp_path / "net.html")
    assert run("report", folder, *words)[0] == 0
    assert "photo.png" in (tmp_path / "net.html").read_text()


def test_errors_of_a_folders_package_name_the_folder(tmp_path):
    folder = wide(tmp_path / "net")
    with pytest.raises(lowering.errors.RungTargetError) as caught:
        lowering.compress(folder, "int4-block", tmp_path / "small.mlpackage")
    assert str(folder) in str(caught.value) and "mlpackage" not in str(caught.value)
    with pytest.raises(lowering.InputError, match="the model that the package was made from"):
        lowering.ladder(tmp_path / "small.mlpackage")
    assert not (tmp_path / "small.mlpackage").exists()


def test_predict_and_verify_say_the_same_of_a_picture_that_cannot_be_read(tmp_path):
    folder = exported(tmp_path / "net")
    package = saved(folder, tmp_path / "net.mlpackage")
    (tmp_path / "no.png").write_bytes(b"no picture")
    import PIL.Image

    PIL.Image.new("F", (4, 4)).save(tmp_path / "floats.tif")
    for name in ("no.png", "floats.tif", "nowhere.jpg", "nowhere"):
        file = tmp_path / name
        with pytest.raises(lowering.PictureError) as caught:
            lowering.verify(package, folder, pictures=[file])
        message = str(caught.value).splitlines()[0]
        for words in (
            ["verify", package, folder, "--pictures", file],
            ["predict", package, "-i", f"input={file}"],
        ):
            code, output = run(*words)
            assert code == 2 and message in output and name in output, output


def test_a_picture_for_a_package_without_a_contract(tmp_path):
    image = ct.ImageType(name="x", shape=(1, 3, 6, 4), scale=1 / 255)
    model = nn.Conv2d(3, 2, 1).eval()
    made = lowering.convert(model, (torch.rand(1, 3, 6, 4),), inputs=[image], skip_model_load=True)
    package = lowering.save(made, tmp_path / "net.mlpackage")
    (name,) = lowering.load(package).inputs
    picture(size=(4, 6)).save(tmp_path / "a.png")
    assert run("predict", package, "-i", f"{name}={tmp_path / 'a.png'}")[0] == 0
    code, output = run("predict", package, "-i", f"{name}={tmp_path / 'b.png'}")
    assert code == 2 and "no such picture" in output
