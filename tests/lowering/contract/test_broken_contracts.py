"""Contracts that are broken in one way or several: one error that says all, and nothing written."""

import copy
import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import lowering
from frontend.errors import AnePassesError, ProgramFileError
from lowering.cli import main
from lowering.cli.load_model import load_model_call
from lowering.contract.names import CONTRACT, PROGRAM
from lowering.contract.reading import contract_of
from lowering.errors import ModelLoadError
from tests.lowering.contract.shipping_models import LABELS, classifier, exported

IMAGE = ("inputs", 0, "image")
# Path of the value that is changed, what it becomes, and words of the message.
BROKEN = [
    (("schema",), 99, "later version"),
    (("schema",), "1", "schema: is"),
    (("name",), "", "name: is"),
    (("name",), "a/b", "name: is"),
    (("program", "sha256"), "0" * 64, "not that of model.pt2"),
    (("program", "sha256"), "abc", "program.sha256"),
    (("program", "file"), "../model.pt2", "program.file"),
    (("program", "file"), "other.pt2", "program is missing"),
    (("program",), None, "program: is null"),
    (("inputs",), [], "inputs: is []"),
    (("inputs",), {}, "inputs: is {}"),
    (("inputs", 0, "name"), "other", "the program's are input"),
    (("inputs", 0, "shape"), [1, 3, 8], "makes [1, 3, 8, 8]"),
    (("inputs", 0, "shape"), [1, 3, 8, -1], "not a list of sizes"),
    (("inputs", 0, "shape"), [1, 3, 8, 8.5], "not a list of sizes"),
    (("inputs", 0, "dtype"), "float", "inputs[0].dtype"),
    (("inputs", 0, "dtype"), "int32", "the program's is float32"),
    (("inputs", 0, "range"), [1, 0], "smallest behind"),
    (("inputs", 0, "colour"), 1, "'colour' that is not known"),
    ((*IMAGE, "std"), [0.2, 0.0, 0.2], "divided by it"),
    ((*IMAGE, "std"), "abc", "std is"),
    ((*IMAGE, "mean"), [0.1, 0.2], "mean is"),
    ((*IMAGE, "size"), [8, 9], "of a picture, not the shape"),
    ((*IMAGE, "layout"), "BRG", "layout is 'BRG'"),
    ((*IMAGE, "resize"), "area", "resize is 'area'"),
    ((*IMAGE, "gamma"), 2.2, "'gamma' that is not known"),
    (("outputs", 0, "name"), "logits", "the task makes"),
    (("outputs", 0, "meaning"), 3, "not a text"),
    (("task", "kind"), "guess", "not one of classify"),
    (("task", "labels"), list(LABELS[:4]), "there are 4 labels"),
    (("task", "labels"), ["a", "a", "b", "c", "d"], "twice: a"),
    (("task", "labels"), "abcde", "labels"),
    (("task", "labels"), [1, 2, 3, 4, 5], "labels must be texts"),
    (("task", "top_k"), 9, "top_k is 9"),
    (("task", "activation"), "relu", "activation is 'relu'"),
    (("target",), "iOS12", "target: is"),
    (("precision",), "int8", "precision: is"),
    (("accept",), {"metric": "luck", "at_least": 1}, "accept.metric"),
    (("accept",), {"metric": "top1", "at_least": 2}, "accept.at_least"),
    (("states",), [{"name": "cache", "shape": [1]}], "states: are"),
    (("made_with",), [], "made_with"),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = exported(tmp_path_factory.mktemp("good") / "net")
    return folder, json.loads((folder / CONTRACT).read_text())


def broken(values, path, value):
    values = copy.deepcopy(values)
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return values


def refused(folder, text, tmp_path):
    """The one error of every verb, and nothing beside the folder."""
    where = tmp_path / "net"
    where.mkdir()
    (where / PROGRAM).symlink_to(folder / PROGRAM)
    (where / CONTRACT).write_text(text)
    with pytest.raises(AnePassesError) as caught:
        lowering.convert(where)
    message = str(caught.value)
    assert isinstance(caught.value, lowering.ContractError) and len(message) < 1500
    assert caught.value.details["next step"]
    result = CliRunner().invoke(main, ["convert", str(where), "-o", str(tmp_path / "x.mlpackage")])
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert [item.name for item in tmp_path.iterdir()] == ["net"]
    return message


@pytest.mark.parametrize(("path", "value", "words"), BROKEN)
def test_one_thing_is_broken(path, value, words, good, tmp_path):
    folder, values = good
    message = refused(folder, json.dumps(broken(values, path, value)), tmp_path)
    assert words in message, message
    assert "\n  - " not in message or message.count("\n  - ") <= 2, message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("[]", "not an object"),
        ('{"schema": 1', "no JSON"),
        ('{"schema": 1, "schema": 1}', "stand there twice: schema"),
        ('{"schema": 1, "name": NaN}', "lacks"),
    ],
)
def test_no_contract_at_all(text, words, good, tmp_path):
    assert words in refused(good[0], text, tmp_path)


@pytest.mark.parametrize("key", ["schema", "name", "program", "inputs", "outputs", "target"])
def test_a_key_is_missing(key, good, tmp_path):
    folder, values = good
    left = {name: value for name, value in values.items() if name != key}
    assert f"lacks {key}" in refused(folder, json.dumps(left), tmp_path)


def test_all_problems_are_said_at_once(good, tmp_path):
    folder, values = good
    for path, value in (
        (("inputs", 0, "image", "std"), [0.0]),
        (("target",), "iOS1"),
        (("task", "kind"), "guess"),
        (("extra",), 1),
    ):
        values = broken(values, path, value)
    message = refused(folder, json.dumps(values), tmp_path)
    for words in ("divided by it", "target: is", "task.kind", "'extra'"):
        assert words in message, message


def test_options_that_do_not_fit_the_model(tmp_path):
    model, x = classifier()
    image = lowering.Image((9, 9))
    with pytest.raises(lowering.ContractError) as caught:
        lowering.export(
            model,
            (x,),
            tmp_path / "net",
            inputs={"input": image, "other": image},
            task=lowering.Classify(("a", "b")),
            target="iOS3",
        )
    for words in ("no input 'other'", "[1, 3, 9, 9]", "there are 2 labels", "target"):
        assert words in str(caught.value)
    with pytest.raises(lowering.SaveError, match="parent"):
        lowering.export(model, (x,), tmp_path / "no" / "net")
    (tmp_path / "mine").mkdir()
    with pytest.raises(lowering.SaveError, match="no export"):
        lowering.export(model, (x,), tmp_path / "mine")
    assert [item.name for item in tmp_path.iterdir()] == ["mine"]
    assert contract_of.__doc__


class Masked(nn.Module):
    """A product, what is added to it, and a value that is no parameter."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 5)
        self.register_buffer("mask", torch.zeros(5), persistent=False)
        self.table = torch.ones(5)

    def forward(self, x):
        return (self.inner(x) + self.mask) * self.table


@pytest.mark.parametrize(
    ("place", "number", "found"),
    [
        ("inner.weight", "nan", r"NaN in inner\.weight"),
        ("inner.bias", "nan", r"NaN in inner\.bias"),
        ("mask", "nan", r"NaN in mask"),
        ("table", "nan", r"NaN in table"),
        ("inner.weight", "inf", r"an infinity in inner\.weight"),
        ("inner.weight", "-inf", r"an infinity in inner\.weight"),
        # What is added may leave a class out.
        ("inner.bias", "-inf", None),
        ("mask", "-inf", None),
    ],
)
def test_weights_that_are_no_numbers_are_refused(place, number, found, tmp_path):
    model = Masked().eval()
    module, _, name = place.rpartition(".")
    with torch.no_grad():
        getattr(model.get_submodule(module), name).flatten()[0] = float(number)
    x = torch.randn(2, 4)
    if found is None:
        assert lowering.export(model, (x,), tmp_path / "net").is_dir()
    else:
        with pytest.raises(lowering.ContractError, match=found):
            lowering.export(model, (x,), tmp_path / "net")
        assert not list(tmp_path.iterdir())


def test_models_of_other_kinds_are_refused_by_name(tmp_path):
    scripted = tmp_path / "net.pt"
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
        torch.jit.trace(nn.ReLU(), torch.ones(1)).save(scripted)
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07")
    for name, words in (("net.pt", "TorchScript"), ("net.onnx", "ONNX")):
        with pytest.raises(lowering.ContractError, match=words):
            lowering.convert(tmp_path / name)
        for verb in (["convert", "-o", tmp_path / "x.mlpackage"], ["export", "-o", tmp_path / "x"]):
            result = CliRunner().invoke(main, [*map(str, verb), str(tmp_path / name)])
            assert result.exit_code == 2 and words in result.output
            assert "file.py:function" in result.output
    with pytest.raises(ProgramFileError):
        (tmp_path / "bad.pt2").write_bytes(b"")
        lowering.contract.folder.load_program(tmp_path / "bad.pt2")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bad.pt2", "net.onnx", "net.pt"]


def test_an_export_that_lost_its_contract_is_called_so(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"")
    with pytest.raises(ModelLoadError, match=r"without contract\.json"):
        load_model_call(str(tmp_path))
