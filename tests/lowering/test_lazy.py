"""The command line starts without torch and coremltools; public names are what they were."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

import frontend
import lowering


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_the_command_line_starts_light():
    done = python(
        "import sys, lowering.cli;"
        "print(sorted({'torch', 'coremltools', 'numpy', 'passes'} & set(sys.modules)))"
    )
    assert done.stdout == "[]\n"


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


def test_submodules_are_found_as_ever():
    import lowering.planner.placement

    assert isinstance(lowering.planner, ModuleType)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        lowering.missing
    with pytest.raises(ImportError):
        importlib.import_module("lowering.missing")
