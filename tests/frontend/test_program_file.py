"""Saved programs: plain ones load, those that ask for code are refused and run nothing."""

import io
import json
import pickle
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from frontend.errors import ProgramFileError
from frontend.program_code import is_arithmetic
from frontend.program_file import load_program

X = torch.randn(8, 4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("offset", torch.ones(4))

    def forward(self, x):
        y = self.linear(x)[: x.shape[0] // 2] + self.offset
        branch = torch.cond(x.sum() > 0, lambda b: b + 1, lambda b: b * 2, (self.linear.bias,))
        return {"half": y, "branch": branch}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    sizes = {"x": {0: Dim.DYNAMIC(min=4, max=64)}}
    path = tmp_path_factory.mktemp("programs") / "net.pt2"
    torch.export.save(export(Net().eval(), (X,), dynamic_shapes=sizes), path)
    return path


class Touch:
    """Harmless code in a pickle: it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def rewritten(saved, path, change, added=()):
    """A copy of the program with members changed: ``change(name, bytes) -> bytes | None``."""
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as copy:
        for name in source.namelist():
            data = source.read(name)
            copy.writestr(name, change(name, data) or data)
        for name, data in added:
            copy.writestr(f"{source.namelist()[0].split('/')[0]}/{name}", data)
    return path


def with_json(saved, path, change):
    def in_model(name, data):
        if not name.endswith("models/model.json"):
            return None
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    return rewritten(saved, path, in_model)


def refused(path, ran):
    with pytest.raises(ProgramFileError) as caught:
        load_program(path)
    assert not ran.exists(), "code of the file was run"
    assert caught.value.details["next step"] and str(path) in str(caught.value)
    return str(caught.value)


def test_a_plain_program_loads(saved):
    program = load_program(saved)
    assert program.module()(X)["half"].shape == (4, 4)
    assert program.module()(torch.randn(6, 4))["half"].shape == (3, 4)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv1d(4, 8, 3), nn.GELU()),
        nn.GRU(4, 4),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_programs_of_other_models_load(model, tmp_path):
    torch.export.save(export(model, (torch.randn(2, 4, 4),)), tmp_path / "net.pt2")
    assert load_program(tmp_path / "net.pt2").state_dict.keys() == model.state_dict().keys()


def test_code_in_example_inputs(saved, tmp_path):
    ran = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save(((Touch(ran),), {}), buffer)

    def change(name, data):
        return buffer.getvalue() if "sample_inputs" in name else None

    path = rewritten(saved, tmp_path / "net.pt2", change)
    text = refused(path, ran)
    assert "asks for code" in text and "sample_inputs/model.pt: " in text and "pathlib.Path" in text
    assert "--trust" in text
    load_program(path, trust=True)  # its reader said so
    assert ran.exists()


def test_code_in_an_old_pickle(saved, tmp_path):
    ran = tmp_path / "ran"

    def change(name, data):
        return pickle.dumps(((Touch(ran),), {})) if "sample_inputs" in name else None

    assert "sample_inputs" in refused(rewritten(saved, tmp_path / "net.pt2", change), ran)


@pytest.mark.parametrize("folder", ["weights", "constants"])
def test_code_in_tensors(saved, tmp_path, folder):
    ran = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save({"linear.weight": Touch(ran)}, buffer)
    path = rewritten(
        saved,
        tmp_path / "net.pt2",
        lambda *_: None,
        [(f"data/{folder}/model.pt", buffer.getvalue())],
    )
    assert f"data/{folder}/model.pt: " in refused(path, ran)


@pytest.mark.parametrize(
    ("path_name", "pickled", "what"),
    [
        ("opaque_obj_0", True, "a pickled object"),
        ("custom_obj_0", True, "a TorchScript object"),
        ("tensor_0", True, "data/constants/tensor_0: builtins.getattr, pathlib.Path"),
    ],
)
def test_code_in_constants(saved, tmp_path, path_name, pickled, what):
    ran = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save(Touch(ran), buffer)
    entry = {"path_name": path_name, "is_param": False, "use_pickle": pickled, "tensor_meta": None}

    def change(name, data):
        if name.endswith("constants_config.json"):
            return json.dumps({"config": {"c": entry}}).encode()
        return None

    data = buffer.getvalue() if path_name == "tensor_0" else pickle.dumps(Touch(ran))
    added = [(f"data/constants/{path_name}", data)]
    assert what in refused(rewritten(saved, tmp_path / "net.pt2", change, added), ran)


def test_compiled_code(saved, tmp_path):
    added = [("data/aotinductor/model/model.so", b"\x7fELF")]
    path = rewritten(saved, tmp_path / "net.pt2", lambda *_: None, added)
    assert "data/aotinductor/model/model.so: compiled code" in refused(path, tmp_path / "ran")


def each(value, wanted):
    """Dictionaries below ``value`` that have the key ``wanted``."""
    if isinstance(value, dict):
        if wanted in value:
            yield value
        for inner in value.values():
            yield from each(inner, wanted)
    elif isinstance(value, list):
        for inner in value:
            yield from each(inner, wanted)


def touching(ran):
    return f"__import__('pathlib').Path({str(ran)!r}).touch()"


@pytest.mark.parametrize("text", ["{}", "s0 + {}", "(lambda: {})()", "[{}][0]"])
def test_code_in_sizes(saved, tmp_path, text):
    ran = tmp_path / "ran"

    def change(document):
        for entry in each(document, "expr_str"):
            entry["expr_str"] = text.format(touching(ran))

    path = with_json(saved, tmp_path / "net.pt2", change)
    assert "an expression that is no arithmetic" in refused(path, ran)


def test_code_in_guards(saved, tmp_path):
    ran = tmp_path / "ran"
    path = with_json(
        saved, tmp_path / "net.pt2", lambda document: document.update(guards_code=[touching(ran)])
    )
    assert "a condition that is no comparison" in refused(path, ran)


@pytest.mark.parametrize("key", ["name", "as_name"])
def test_code_in_names(saved, tmp_path, key):
    ran = tmp_path / "ran"

    def change(document):
        next(each(document["graph_module"]["graph"], key))[key] = f"x={touching(ran)}"

    assert "a name that is none" in refused(with_json(saved, tmp_path / "net.pt2", change), ran)


def test_code_in_names_of_weights(saved, tmp_path):
    ran = tmp_path / "ran"

    def change(document):
        next(each(document, "parameter_name"))["parameter_name"] = f'a"+{touching(ran)}+"'

    assert "a name that is none" in refused(with_json(saved, tmp_path / "net.pt2", change), ran)


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
    ],
)
def test_operators_that_are_functions(saved, tmp_path, target):
    def change(document):
        document["graph_module"]["graph"]["nodes"][0]["target"] = target

    path = with_json(saved, tmp_path / "net.pt2", change)
    assert f"an operator that calls code: {target!r}" in refused(path, tmp_path / "ran")


@pytest.mark.parametrize(
    "context",
    [
        {
            "default_factory_module": "antigravity",
            "default_factory_name": "fly",
            "dict_context": [],
        },
        {"__enum__": True, "fqn": "this:Sky", "name": "BLUE"},
    ],
)
def test_structures_that_import(saved, tmp_path, context):
    def change(document):
        for entry in each(document, "in_spec"):
            spec = json.loads(entry["in_spec"])
            spec[1]["context"] = json.dumps(context)
            entry["in_spec"] = json.dumps(spec)

    path = with_json(saved, tmp_path / "net.pt2", change)
    assert "inputs that import a module" in refused(path, tmp_path / "ran")


def test_example_inputs_of_other_classes_need_trust(tmp_path):
    class Sum(nn.Module):
        def forward(self, parts):
            return parts["a"][0] + 1

    parts = defaultdict(list, {"a": [X]})
    torch.export.save(export(Sum(), (parts,)), tmp_path / "net.pt2")
    # Torch pickles example inputs, and takes no defaultdict where it is to run nothing.
    assert "collections.defaultdict" in refused(tmp_path / "net.pt2", tmp_path / "ran")
    assert load_program(tmp_path / "net.pt2", trust=True).graph_signature.user_inputs


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Symbol('s77', positive=True, integer=True)", True),
        ("FloorDiv(Symbol('s77', integer=True), Integer(2)) + 3*Max(1, s0)**2", True),
        ("((2*L['x'].size()[0]) % 3) == 1 and not L['y'][0].stride()[1] < 4", True),
        ("2**9**9**9", False),
        ("PowByNatural(10, 10000000)", False),
        ("Pow(Pow(9, 64), 64)", False),
        ("s0.__class__", False),
        ("eval('1')", False),
        ("[s for s in (1,)]", False),
        ("f'{1}'", False),
        ("1 if s0 else 2", False),
        ("s0 +", False),
        ("(" * 5000, False),
        ("1+" * 20_000 + "1", False),
    ],
)
def test_arithmetic(text, plain):
    assert is_arithmetic(text) is plain


def test_files_that_are_no_program(saved, tmp_path):
    path = tmp_path / "net.pt2"
    for content in (b"", b"PK\x03\x04", b"hello", saved.read_bytes()[:2000]):
        path.write_bytes(content)
        assert "is no program of torch" in refused(path, tmp_path / "ran")
    torch.save(nn.Linear(1, 1).state_dict(), path)
    assert "is no program of torch" in refused(path, tmp_path / "ran")
    assert "no such file" in refused(tmp_path / "missing.pt2", tmp_path / "ran")
