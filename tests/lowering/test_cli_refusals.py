"""What a MODEL's own code does, and what every refusal of the command line says."""

import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from frontend.errors import AnePassesError, about, first_line
from frontend.json_text import parse
from lowering.cli import main
from lowering.errors import SaveError
from lowering.package.saving import package_path
from lowering.support.array_file import READ_ERRORS, read_array_file
from lowering.verification import VerificationError
from lowering.verification.metrics import boxes
from passes import optimize_for_ane
from passes.errors import PassError

EXIT_USER_ERROR = 2
FUNCTION = "import sys\n\ndef make():\n    {}\n"


def refusal(*arguments):
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == EXIT_USER_ERROR, result.output
    assert result.stderr.startswith("Error: ") and "next step:" in result.stderr
    return result.stderr


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ends_with_0", FUNCTION.format("sys.exit(0)")),
        ("ends_with_words", FUNCTION.format("sys.exit('good bye')")),
        ("ends_at_import", "import sys\nsys.exit(3)\n"),
        ("raises_nothing_said", FUNCTION.format("raise ValueError")),
        ("raises_a_base", FUNCTION.format("raise type('Odd', (BaseException,), {})('out')")),
        ("no_model", FUNCTION.format("return 3")),
        ("no_function", "a = 3\n"),
    ],
)
def test_code_of_a_model(tmp_path, name, source):
    file = tmp_path / f"{name}.py"
    file.write_text(source)
    assert file.name in refusal("check", f"{file}:make")


def test_a_model_that_ends_the_process_in_forward():
    class Ends(nn.Module):
        def forward(self, x):
            raise SystemExit(4)

    with pytest.raises(AnePassesError, match="could not be run") as caught:
        optimize_for_ane(Ends(), (torch.ones(2),))
    assert "raise SystemExit(4)" in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "nowhere.mlpackage"),
        ("verify", "nowhere.mlpackage", "nowhere.py:make"),
        ("check", "nowhere.py:make"),
        ("compare", "a.mlpackage", "b.mlpackage"),
        ("explain", "no-such-rule"),
    ],
)
def test_refusals_name_what_was_given(arguments):
    text = refusal(*arguments)
    assert any(one.partition(":")[0] in text for one in arguments[1:])


@pytest.mark.parametrize(
    ("file", "hint", "said"),
    [("a.mlpackage", None, None), ("a.mlpackage", "look", "look"), ("in it", None, None)],
)
def test_errors_are_told_what_they_are_about(file, hint, said):
    with pytest.raises(AnePassesError) as caught, about(file, hint):
        raise AnePassesError("something in it is wrong")
    assert caught.value.details["next step"] == said
    assert str(caught.value).count(file) == 1


def test_what_an_error_says_itself_stays():
    with pytest.raises(PassError) as caught, about("a.mlpackage", "another step"):
        raise PassError("wrong in b.mlpackage", file="b.mlpackage", hint="copy a.mlpackage")
    assert caught.value.details["file"] == "b.mlpackage"
    assert caught.value.details["next step"] == "copy a.mlpackage"


class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\nb"), "a"),
        (ValueError(), "ValueError"),
        (KeyError("a"), "'a'"),
        (Silent(), "Silent"),
    ],
)
def test_first_lines(error, line):
    assert first_line(error) == line


def saved(path, array):
    np.save(path, array)
    return path.read_bytes()


@pytest.mark.parametrize("what", ["empty", "cut", "text", "complex", "huge", "objects", "bytes"])
@pytest.mark.parametrize("packed", [False, True])
def test_arrays_that_cannot_be_read(tmp_path, what, packed):
    good = saved(tmp_path / "good.npy", np.ones(64))
    data = {
        "empty": b"",
        "cut": good[:90],
        "text": saved(tmp_path / "text.npy", np.array(["a"])),
        "complex": saved(tmp_path / "complex.npy", np.ones(2, dtype=np.complex64)),
        "huge": good.replace(b"(64,)", b"(9999999999999,)"),
        "objects": saved(tmp_path / "objects.npy", np.array([None])),
        "bytes": b"no array",
    }[what]
    file = tmp_path / ("x.npz" if packed else "x.npy")
    if packed:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("input.npy", data)
    else:
        file.write_bytes(data)
    with pytest.raises(READ_ERRORS):
        read_array_file(file)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "", '{"a": ' * 100_000])
def test_json_that_cannot_be_read(text, tmp_path):
    with pytest.raises(ValueError):
        parse(text)
    file = tmp_path / "a.json"
    file.write_text(text)
    model = tmp_path / "json_model.py"
    model.write_text("import torch\ndef make():\n    return torch.nn.ReLU(), (torch.ones(1),)\n")
    assert "a.json" in refusal("optimize", f"{model}:make", "--pipeline", str(file))


def test_a_metric_of_boxes_needs_boxes():
    outputs = {"y": torch.ones(1, 3)}
    with pytest.raises(VerificationError, match="outputs of a detector"):
        boxes(outputs, outputs)


@pytest.mark.parametrize("name", ["", ".", "/", "x" * 300 + ".mlpackage", "a\0b.mlpackage"])
def test_outputs_that_cannot_be_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SaveError) as caught:
        package_path(name)
    assert caught.value.details["next step"] and not list(tmp_path.iterdir())
