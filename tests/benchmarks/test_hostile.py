"""The campaign's judge sees each rule broken; its cases are the same for the same seed."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.hostile import damage, mutate
from benchmarks.hostile.case import MARKER, OUTPUT, Case
from benchmarks.hostile.judge import violations
from benchmarks.hostile.run import EXIT_UNCAUGHT, Ran, snapshot

REFUSAL = "Error: the package is damaged\n  file: net.mlpackage\n  next step: copy it again\n"
OUT = f"run/{OUTPUT}"


def ran(code=2, stderr=REFUSAL, after=(), refused=True, timed_out=False):
    case = Case("kind", "name", ("plan", "net.mlpackage"), Path.mkdir, ("net.mlpackage",), refused)
    files = dict.fromkeys(after, "content")
    return Ran(case, code, 0.1, timed_out, "", stderr, {}, files)


@pytest.mark.parametrize(
    "one",
    [ran(), ran(0, "", (f"{OUT}/net.mlpackage",), refused=False), ran(2, "Usage: ane-passes plan")],
)
def test_what_is_right(one):
    assert not list(violations(one))


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (ran(EXIT_UNCAUGHT, "Traceback (most recent call last):\nKeyError: 1"), "crashes"),
        (ran(2, f"Traceback (most recent call last):\n{REFUSAL}"), "prints a traceback"),
        (ran(-11), "exit code -11"),
        (ran(-9, timed_out=True), "hangs"),
        (ran(0), "not refused"),
        (ran(2, "Error: no\n  next step: none"), "does not name net.mlpackage"),
        (ran(2, "Error: net.mlpackage is damaged"), "names no next step"),
        (ran(2, "net.mlpackage\n  next step: none"), "prints no error"),
        (ran(after=(f"{OUT}/a.json",)), "half-written"),
        (ran(after=("run/a.json",)), "writes outside of the output"),
        (ran(after=("tmp/a.mlpackage",)), "left behind"),
        (ran(0, "", (f"{OUT}/.saving",), refused=False), "left behind"),
        (ran(after=(f"run/{MARKER}",)), "runs code of the file"),
    ],
)
def test_what_is_wrong(one, text):
    assert text in " ".join(violations(one))


def test_a_seed_gives_the_same_cases(tmp_path):
    sound = {name: tmp_path / f"{name}.mlpackage" for name in ("dense", "state", "control")}
    sound |= {name: tmp_path / f"{name}.mlpackage" for name in ("picture", "pipeline")}

    def titles(seed):
        rng = np.random.default_rng(seed)
        made = (*damage.cases(sound, rng), *mutate.cases(sound, rng))
        return [case.title for case in made]

    assert titles(3) == titles(3) != titles(4)


def test_a_snapshot_sees_links_and_content(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "stdout").write_text("what was printed")
    (tmp_path / "a").write_text("1")
    before = snapshot(tmp_path)
    (tmp_path / "a").write_text("2")
    (tmp_path / "b").symlink_to("a")
    after = snapshot(tmp_path)
    assert set(before) == {"a"} and set(after) == {"a", "b"}
    assert before["a"] != after["a"] and after["b"] == "link a"
