"""Programs are saved whole or not at all, and a full disk is an error, not the end."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from frontend.program_file import load_program
from lowering.errors import SaveError
from lowering.package.program import save_program

LARGE = """
import resource, signal, sys
import torch
from torch import nn
from lowering import convert
from lowering.errors import SaveError
from lowering.package.program import save_program
from lowering.package.saving import save

program = torch.export.export(nn.Linear(400, 400), (torch.ones(1, 400),))
package = convert(program) if sys.argv[1] == "save" else None
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    if sys.argv[1] == "program":
        save_program(program, sys.argv[2])
    elif sys.argv[1] == "convert":
        convert(program)
    else:
        save(package, sys.argv[2])
except SaveError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def program():
    return torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),))


def test_a_program_is_saved_and_replaced(program, tmp_path):
    path = save_program(program, tmp_path / "net.pt2")
    assert save_program(program, path) == path
    assert os.listdir(tmp_path) == ["net.pt2"]
    x = torch.randn(1, 3)
    torch.testing.assert_close(load_program(path).module()(x), program.module()(x))


@pytest.mark.parametrize(
    ("what", "name", "text"),
    [
        ("program", "net.pt2", "the program could not be written: File too large"),
        ("convert", "", "to the temporary folder"),
        ("save", "net.mlpackage", "could not be written"),
    ],
)
def test_a_full_disk(tmp_path, what, name, text):
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LARGE, what, str(out / name)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert text in done.stdout and "next step" in done.stdout
    assert not os.listdir(out)


def test_bad_paths(program, tmp_path):
    for path in (tmp_path / "net.pt", tmp_path / "no" / "net.pt2", tmp_path / "file" / "net.pt2"):
        (tmp_path / "file").touch()
        with pytest.raises(SaveError) as caught:
            save_program(program, path)
        assert caught.value.details["next step"]
