"""Outputs written by processes that are killed, meet each other, or find the disk full."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lowering.support.staging import put, reason, staged

PACKAGE = """
import pathlib, sys, time
from lowering.support.staging import put, staged
target = pathlib.Path(sys.argv[1])
for turn in range(int(sys.argv[2])):
    with staged(target) as folder:
        fresh = folder / "package"
        fresh.mkdir()
        (fresh / "a").write_text(sys.argv[3])
        (fresh / "b").write_text(sys.argv[3])
        if sys.argv[4] == "wait":
            print("ready", flush=True)
            time.sleep(60)
        put(fresh, target)
"""


def writer(target, turns=1, text="x", how="go"):
    return subprocess.Popen(
        [sys.executable, "-c", PACKAGE, str(target), str(turns), text, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def names(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_what_a_killed_writer_left_is_cleared(tmp_path, kill):
    target = tmp_path / "out"
    process = writer(target, how="wait")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(kill)
    process.communicate()
    assert len(names(tmp_path)) == 1  # its hidden folder
    with staged(target) as folder:
        (folder / "package").mkdir()
        put(folder / "package", target)
    assert names(tmp_path) == ["out"]


def test_what_a_living_writer_and_others_have_stays(tmp_path):
    target = tmp_path / "out"
    process = writer(target, how="wait")
    assert process.stdout.readline() == "ready\n"
    (tmp_path / ".out.saving").mkdir()
    with staged(target), staged(tmp_path / "other"):
        assert len(names(tmp_path)) == 4
    assert len(names(tmp_path)) == 2
    process.kill()
    process.communicate()
    with staged(tmp_path / "other"):
        pass
    assert len(names(tmp_path)) == 2  # the other output's folder is not ours to clear


def test_a_package_taken_out_of_place_goes_back(tmp_path):
    target = tmp_path / "out"
    process = writer(target, how="wait")
    assert process.stdout.readline() == "ready\n"
    (left,) = tmp_path.iterdir()
    (left / "previous").mkdir()
    (left / "previous" / "kept").touch()
    process.kill()
    process.communicate()
    with staged(target):
        pass
    assert names(target) == ["kept"]


def test_writers_of_one_output_follow_one_another(tmp_path):
    target = tmp_path / "out"
    writers = [writer(target, turns=15, text=text) for text in "xyz"]
    for process in writers:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert names(tmp_path) == ["out"]
    assert (target / "a").read_text() == (target / "b").read_text()


def test_a_failed_move_is_taken_back(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    (target / "kept").touch()
    with staged(target) as folder, pytest.raises(OSError, match="No such file"):
        (folder / "package").mkdir()
        real = os.rename

        def rename(source, destination):
            if str(source).endswith("package"):
                raise FileNotFoundError(2, "No such file or directory")
            real(source, destination)

        monkeypatch.setattr(os, "rename", rename)
        put(folder / "package", target)
    assert names(target) == ["kept"]


def test_names_as_long_as_can_be(tmp_path):
    target = tmp_path / ("n" * 255)
    start = time.perf_counter()
    with staged(target) as folder:
        (folder / "text").touch()
        put(folder / "text", target)
    assert names(tmp_path) == [target.name] and time.perf_counter() - start < 5


def test_reasons_are_a_few_words(tmp_path):
    import shutil

    assert reason(OSError(28, "No space left on device")) == "No space left on device"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").symlink_to(tmp_path / "missing")
    with pytest.raises(shutil.Error) as caught:
        shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert reason(caught.value) == "[Errno 2] No such file or directory"
