"""What this package was run with: the versions of Python, torch, numpy, coremltools and Core AI.

    python -m benchmarks.support
    python -m benchmarks.support --run [--every N] [--jobs N] [TESTS]...

Without ``--run`` the table of stored runs is printed. With it the tests run in this Python, ``all``
of them or those of the files and folders given; what pytest counted is stored, in place of an older
run of the same tests with the same versions. A run that was broken off is not stored.

Exit codes: 0 all passed, 1 some failed.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import click
from rich.table import Table

from lowering.cli.common import EXIT_CHECK_FAILED, stdout_console

ROOT = Path(__file__).parent.parent
STORE = Path(__file__).parent / "data" / "support.json"
PACKAGES = ("torch", "numpy", "coremltools", "coreai-torch")
ABSENT = "-"
# What pytest ends with when it ran the tests: all passed, some failed.
_RAN = (0, 1)


@dataclass(frozen=True)
class Counts:
    """What became of the tests.

    Attributes:
        passed: how many.
        skipped: how many, each with a reason, such as an extra that is not installed.
        failed: their names.
    """

    passed: int
    skipped: int
    failed: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One run of tests.

    Attributes:
        system: operating system and processor.
        python: version.
        packages: version by name, ``-`` where it is not installed.
        tests: what ran, such as ``all`` or ``tests/frontend, one of 5``.
        counts: what became of them.
    """

    system: str
    python: str
    packages: dict[str, str]
    tests: str
    counts: Counts

    def is_of_the_same(self, other: Run) -> bool:
        """Whether ``other`` is a run of the same tests with the same versions."""
        mine, theirs = asdict(self), asdict(other)
        return all(mine[key] == theirs[key] for key in mine if key != "counts")


def stored(path: Path = STORE) -> list[Run]:
    """All stored runs, in the order of their versions."""
    rows = json.loads(path.read_text()) if path.exists() else []
    return [
        Run(
            **{
                **row,
                "counts": Counts(**{**row["counts"], "failed": tuple(row["counts"]["failed"])}),
            }
        )
        for row in rows
    ]


def store(run: Run, path: Path = STORE) -> None:
    """Adds ``run``, in place of one of the same tests with the same versions."""
    runs = [run, *(old for old in stored(path) if not old.is_of_the_same(run))]
    runs.sort(key=lambda r: ([_numbers(r.packages["torch"]), _numbers(r.python)], r.tests))
    path.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")


def run_tests(tests: Sequence[str], every: int, jobs: int, folder: Path) -> Counts:
    """Runs ``tests``, one of ``every``, in ``jobs`` processes; pytest's own output is shown.

    Raises:
        click.ClickException: pytest could not run them.
    """
    report = folder / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore"]
    command += ["-p", "benchmarks.every_nth", f"--every={every}", f"--junitxml={report}"]
    command += ["-n", str(jobs), "--dist", "worksteal"] if jobs > 1 else []
    code = subprocess.run([*command, *tests], cwd=ROOT).returncode
    if code not in _RAN:
        raise click.ClickException(f"pytest did not run the tests (exit code {code})")
    return counted(report.read_text())


def counted(junit: str) -> Counts:
    """Counts of a report in JUnit's format, as pytest writes it."""
    passed, skipped, failed = 0, 0, []
    for case in ElementTree.fromstring(junit).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return Counts(passed, skipped, tuple(failed))


def described(tests: Sequence[str], every: int) -> str:
    """``tests`` in words."""
    what = ", ".join(tests) if tests else "all"
    return what if every == 1 else f"{what}, one of {every}"


def table(runs: Iterable[Run]) -> Table:
    """A row for each run."""
    made = Table("system", "Python", *PACKAGES, "passed", "failed", "skipped", box=None)
    for run in runs:
        counts = (run.counts.passed, len(run.counts.failed), run.counts.skipped)
        versions = (run.packages[name] for name in PACKAGES)
        made.add_row(run.system, run.python, *versions, *map(str, counts))
    return made


def by_tests(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by what ran, in their order."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.tests, []).append(run)
    return found


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ABSENT


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split("+")[0].split(".") if part.isdigit()]


@click.command(help=__doc__)
@click.argument("tests", nargs=-1)
@click.option("--run", "runs", is_flag=True, help="Run the tests in this Python.")
@click.option("--every", default=1, type=click.IntRange(1), help="Run one of so many tests.")
@click.option("--jobs", default=1, type=click.IntRange(1), help="Processes.")
def main(tests: tuple[str, ...], runs: bool, every: int, jobs: int) -> None:
    """See the module."""
    if not runs:
        for what, same in by_tests(stored()).items():
            click.echo("\n".join(what.split(", ")))
            stdout_console().print(table(same))
        return
    with tempfile.TemporaryDirectory() as folder:
        counts = run_tests(tests, every, jobs, Path(folder))
    packages = {name: _installed(name) for name in PACKAGES}
    system = f"{platform.system()} {platform.machine()}"
    store(Run(system, platform.python_version(), packages, described(tests, every), counts))
    sys.exit(EXIT_CHECK_FAILED if counts.failed else 0)


if __name__ == "__main__":
    main()
