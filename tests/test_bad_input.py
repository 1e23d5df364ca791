"""What users get wrong: each one clear error, and nothing left on disk."""

import ast
import builtins
import os
import re
from collections.abc import Iterator
from pathlib import Path

import coremltools as ct
import pytest
import torch
from torch import nn

from frontend.capturing import capture
from frontend.errors import AnePassesError, CaptureError
from lowering import convert, save
from passes import InputError, optimize_for_ane

X = torch.randn(2, 4)
ROOT = Path(__file__).parent.parent


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.function = function

    def forward(self, x):
        return self.function(self.inner(x))


def data_dependent_loop(h):
    while h.abs().max() > 0.5:
        h = h * 0.5
    return h


def loop_over_a_value(h):
    for _ in range(int(h.argmax())):
        h = h + 1
    return h


def size_on_data(h):
    return h[: h.argmax().item()]


def wrong_shapes(h):
    return h @ h


def raises(h):
    raise KeyError("no such layer")


def assert_is_clear(error, line):
    """One message: what, where in the user's file, and what to do next."""
    text = str(error)
    assert isinstance(error, AnePassesError)
    assert "test_bad_input.py" in text and line in text, text
    assert error.details["next step"]
    assert "Traceback" not in text and len(text) < 1500
    assert error.details["source"].startswith("test_bad_input.py:")  # no path of this machine


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (data_dependent_loop, "while h.abs().max() > 0.5:"),
        (loop_over_a_value, "for _ in range(int(h.argmax())):"),
        (size_on_data, "return h[: h.argmax().item()]"),
        (wrong_shapes, "return h @ h"),
        (raises, 'raise KeyError("no such layer")'),
    ],
)
def test_models_that_cannot_be_captured(function, line):
    with pytest.raises(CaptureError) as caught:
        optimize_for_ane(Calls(function), (X,))
    assert_is_clear(caught.value, line)


def test_a_wrong_shape_is_named():
    with pytest.raises(CaptureError) as caught:
        optimize_for_ane(nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 2)), (X,))
    assert "float32[2, 4]" in caught.value.details["found"]


def test_a_missing_argument_is_named():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(CaptureError) as caught:
        optimize_for_ane(Two(), (X,))
    assert "'y'" in str(caught.value)


def test_missing_inputs_are_asked_for():
    with pytest.raises(CaptureError, match="example inputs are needed"):
        optimize_for_ane(nn.Linear(4, 4))


def test_an_input_of_another_shape_is_refused():
    optimized = optimize_for_ane(nn.Linear(4, 4), (X,))
    with pytest.raises(InputError, match="does not fit the captured model"):
        optimized(torch.randn(3, 4))


@pytest.fixture
def unknown_operator():
    library = torch.library.Library("bad_input_test", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CPU")
    library.impl("twice", lambda x: torch.empty_like(x), "Meta")
    yield torch.ops.bad_input_test.twice
    library._destroy()


def test_an_unknown_operator_is_named_with_its_line(unknown_operator, tmp_path):
    class Custom(nn.Module):
        def forward(self, x):
            return unknown_operator(x).relu()

    optimized = optimize_for_ane(Custom(), (X,))
    with pytest.raises(AnePassesError) as caught:
        save(convert(optimized), tmp_path / "model.mlpackage")
    assert "bad_input_test.twice" in str(caught.value)
    assert "return unknown_operator(x).relu()" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_complex_results_are_refused():
    model = Calls(lambda h: torch.fft.fft(h))
    with pytest.raises(AnePassesError) as caught:
        convert(optimize_for_ane(model, (X,)))
    assert "complex" in str(caught.value)


def test_complex_inputs_are_refused():
    class Doubled(nn.Module):
        def forward(self, x):
            return torch.view_as_real(x * 2)

    with pytest.raises(AnePassesError) as caught:
        convert(optimize_for_ane(Doubled(), (torch.complex(X, X),)))
    assert "complex" in str(caught.value)


def test_weights_on_the_meta_device_are_refused():
    with pytest.raises(CaptureError, match="no weights yet"):
        capture(nn.Linear(4, 4, device="meta"), (X,))


def test_scripted_modules_are_refused():
    with pytest.raises(CaptureError, match="TorchScript"):
        capture(torch.jit.script(nn.Linear(4, 4)), (X,))


# --- on disk ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package():
    return convert(optimize_for_ane(nn.Linear(4, 4), (X,)))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_where_a_folder_should_be(package, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(AnePassesError) as caught:
        save(package, tmp_path / "out" / "model.mlpackage")
    assert str(tmp_path / "out") in str(caught.value)
    assert files(tmp_path) == ["out"] and (tmp_path / "out").read_text() == "mine"


def test_a_move_that_fails_leaves_nothing(package, tmp_path, monkeypatch):
    def refuse(*paths, **options):
        raise PermissionError(13, "Read-only file system")

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(AnePassesError) as caught:
        save(package, tmp_path / "model.mlpackage")
    assert "Read-only file system" in str(caught.value)
    monkeypatch.undo()
    assert files(tmp_path) == []


def test_a_failed_overwrite_keeps_the_old_package(package, tmp_path, monkeypatch):
    target = tmp_path / "model.mlpackage"
    save(package, target)
    before = files(tmp_path)

    def refuse(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ct.models.MLModel, "save", refuse)
    with pytest.raises(AnePassesError) as caught:
        save(package, target)
    assert "No space left" in str(caught.value)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["model.mlmodel", "model.onnx"])
def test_another_suffix_is_refused(package, tmp_path, name):
    with pytest.raises(AnePassesError, match="mlpackage"):
        save(package, tmp_path / name)
    assert files(tmp_path) == []


def spoken_errors(root: Path) -> Iterator[tuple[str, str]]:
    """Where an error is made from a literal, and how its message begins."""
    for layer in ("frontend", "passes", "lowering"):
        for path in sorted((root / layer).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and node.args):
                    continue
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                first = node.args[0]
                part = first.values[0] if isinstance(first, ast.JoinedStr) else first
                text = part.value if isinstance(part, ast.Constant) else None
                theirs = (
                    hasattr(builtins, name) or name == "UsageError"
                )  # Python's, torch's, click's
                if name.endswith("Error") and not theirs and isinstance(text, str):
                    yield f"{path.relative_to(root)}:{node.lineno}", text


def test_messages_begin_alike():
    """In lower case, unless with a name: of an option, a product, a type."""
    found = list(spoken_errors(ROOT))
    assert len(found) > 100
    capital = re.compile(r"(?!Apple|Core ML|Core AI|Dask|Keras|Hugging Face)[A-Z][a-z]+\b")
    assert [(place, text) for place, text in found if capital.match(text)] == []
