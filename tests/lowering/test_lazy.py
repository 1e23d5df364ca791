"""The command line starts without torch and coremltools; public names are what they were."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import coremltools as ct
import pytest
import torch

import frontend
import lowering
import passes
from frontend.deprecated import renamed_arguments
from lowering import generation
from lowering.cli import COMMANDS
from lowering.package import proto


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_the_command_line_starts_light():
    done = python(
        "import sys, lowering.cli;"
        "print(sorted({'torch', 'coremltools', 'numpy', 'passes'} & set(sys.modules)))"
    )
    assert done.stdout == "[]\n"


# What takes a second or more to import, or half of one, and where reading a package needs none.
HEAVY = ("torch", "coremltools.converters", "transformers", "sympy", "networkx", "scipy", "sklearn")
PREDICTS = ("torch", "torch.export")  # `import torch` brings the second
HEAVY_OF_TORCH = ("torch._dynamo", "torch._inductor", "torch.onnx")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    made = lowering.convert(torch.nn.Conv2d(3, 4, 1).eval(), (torch.zeros(1, 3, 8, 8),))
    return lowering.save(made, tmp_path_factory.mktemp("light") / "conv.mlpackage")


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("lowering.plan(PACKAGE)", ()),
        ("main(['plan', PACKAGE])", ()),
        ("main(['plan', PACKAGE, '--json'])", ()),
        ("lowering.predict(PACKAGE, {'input': numpy.zeros((1, 3, 8, 8))})", PREDICTS),
        ("lowering.load(PACKAGE, precision='strict')", PREDICTS),
        ("main(['predict', PACKAGE, '--watch'])", PREDICTS),
    ],
)
def test_what_reads_packages_leaves_the_converter_alone(package, code, allowed):
    done = python(
        f"import sys, numpy, lowering\nfrom lowering.cli import main\nPACKAGE = {str(package)!r}\n"
        f"try:\n    {code}\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('\\n', *sorted(sys.modules))"
    )
    imported = set(done.stdout.split("\n")[-2].split())
    assert "lowering.package.open" in imported
    assert imported.isdisjoint({*HEAVY, *HEAVY_OF_TORCH} - set(allowed))


def test_messages_are_those_of_coremltools():
    """A spec of a loaded model and one that was read here are of one kind."""
    for ours, theirs in (
        (proto.Model_pb2.Model, ct.proto.Model_pb2.Model),
        (proto.MIL_pb2.Program, ct.proto.MIL_pb2.Program),
        (proto.FeatureTypes_pb2.ArrayFeatureType, ct.proto.FeatureTypes_pb2.ArrayFeatureType),
    ):
        assert ours is theirs


def test_imports_are_quiet():
    done = python("from lowering.planner.placement import plan; from lowering import convert")
    assert (done.stdout, done.stderr) == ("", "")


def test_other_messages_of_coremltools_are_heard():
    code = "import lowering, logging; logging.getLogger('coremltools').warning('a message')"
    assert python(code).stderr == "a message\n"


@pytest.mark.parametrize("package", [frontend, lowering])
def test_names_are_no_modules(package):
    """Some modules carry the name of what they define; importing them changes nothing."""
    for name in package.__all__:
        value = getattr(package, name)
        assert not isinstance(value, ModuleType), name
        importlib.import_module(value.__module__)
        assert getattr(package, name) is value
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("package", [frontend, lowering])
def test_type_checkers_see_the_same_names(package):
    tree = ast.parse(Path(package.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {alias.asname for line in block.body for alias in line.names}
    assert told == set(package.__all__)


def test_every_verb_is_a_function():
    elsewhere = {
        "optimize": passes.optimize_for_ane,
        "export-llm": generation.export_decoder,
        "generate": generation.Generator,
        "completion": None,  # of a shell alone
    }
    verbs = {command.name for command in COMMANDS}
    assert elsewhere.keys() <= verbs
    for name in verbs - elsewhere.keys():
        assert callable(getattr(lowering, name)), name


def test_old_names_warn():
    with pytest.warns(FutureWarning, match=r"lowering\.preflight is called lowering\.check now"):
        assert lowering.preflight is lowering.check
    assert "preflight" not in lowering.__all__

    @renamed_arguments(target="chip")
    def predict_on(chip="M4"):
        return chip

    with pytest.warns(FutureWarning, match="'target' of predict_on.*'chip'"):
        assert predict_on(target="M1") == "M1"
    assert predict_on(chip="M2") == predict_on("M2") == "M2"
    with pytest.raises(TypeError, match="both"):
        predict_on(target="M1", chip="M2")


def test_the_command_line_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "lowering.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: ane-passes")


def test_submodules_are_found_as_ever():
    import lowering.planner.placement

    assert isinstance(lowering.planner, ModuleType)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        lowering.missing
    with pytest.raises(ImportError):
        importlib.import_module("lowering.missing")
