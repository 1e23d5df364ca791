"""Runs of the tests are counted from pytest's own report, stored and shown."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest

from benchmarks import support
from benchmarks.support import Counts, Run

RUN = Run(
    "Linux x86_64",
    "3.12.1",
    {"torch": "2.15.0", "numpy": "2.5.5", "coremltools": "9.0", "coreai-torch": "-"},
    "all",
    Counts(5, 1, ("tests.test_x::test_y",)),
)
TESTS = """
import pytest

@pytest.mark.parametrize("n", range(10))
def test_even(n):
    if n == 4:
        pytest.skip("four")
    assert n % 2 == 0
"""


def test_every_second_test_runs_and_is_counted(tmp_path):
    path = tmp_path / "test_numbers.py"
    path.write_text(TESTS)
    every = support.run_tests([str(path)], 2, 1, tmp_path)
    assert every == Counts(4, 1, ())
    third = support.run_tests([str(path)], 3, 1, tmp_path)
    assert (third.passed, third.skipped) == (2, 0)
    assert [name.rpartition("::")[2] for name in third.failed] == ["test_even[3]", "test_even[9]"]


def test_tests_that_cannot_run_are_no_result(tmp_path):
    (tmp_path / "test_broken.py").write_text("import no_such_module")
    for path in ("test_broken.py", "nowhere.py"):
        with pytest.raises(click.ClickException, match="did not run"):
            support.run_tests([str(tmp_path / path)], 1, 1, tmp_path)


def test_a_run_replaces_one_of_the_same(tmp_path):
    path = tmp_path / "support.json"
    assert support.stored(path) == []
    newer = replace(RUN, counts=Counts(6, 1, ()))
    other = replace(RUN, packages={**RUN.packages, "torch": "2.9.1"})
    part = replace(RUN, tests="all, one of 5")
    for run in (RUN, part, other, newer):
        support.store(run, path)
    assert support.stored(path) == [other, newer, part]


def test_what_ran_is_named():
    assert support.described((), 1) == "all"
    assert support.described(("tests/a", "tests/b"), 5) == "tests/a, tests/b, one of 5"


def test_a_row_for_each_run():
    assert support.table([RUN, RUN]).row_count == 2
    part = replace(RUN, tests="tests/a")
    assert support.by_tests([RUN, part, RUN]) == {"all": [RUN, RUN], "tests/a": [part]}
