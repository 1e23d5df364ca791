"""coremltools' own tests, run against the interpreter.

    python -m benchmarks.conformance                 MIL op tests, about 10,000 cases
    python -m benchmarks.conformance --fp32          the same with the fp32 cases, whose tolerances
                                                     are the tests' tight ones
    python -m benchmarks.conformance --suite torch --sample 300
    python -m benchmarks.conformance --sample 150 --plant-fault
    python -m benchmarks.conformance --suite optimized --fp32 --fraction 0.1 --seed 0

``--suite optimized`` runs the torch op tests of the export front end through our own pipeline:
``optimize_for_ane``, ``convert``, then the interpreter; ``optimized-other`` those that coremltools
tries with TorchScript only (half of them STFT). There a case is executed as soon as it asks for a
conversion, so that one which cannot be converted counts as failed.

Elsewhere a case is *executed* when it asked for a prediction. Each executed case that fails must be
listed in ``conformance_known.json`` with the reason. Exit code 1 if one is not, or if fewer than
99 % (95 % of the optimized) of the executed cases of a whole or random run pass. With ``--resume``
the cases finished by an interrupted run are kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import coremltools
from rich.console import Console
from rich.progress import Progress

_KNOWN = Path(__file__).with_name("conformance_known.json")
_TORCH_TESTS = "coremltools.converters.mil.frontend.torch.test.test_torch_ops"
# What pytest is to collect.
_SUITES = {
    "ops": ("coremltools.converters.mil.mil.ops.tests",),
    "torch": (_TORCH_TESTS,),
    "optimized": (_TORCH_TESTS, "-k", "TORCHEXPORT"),
    "optimized-other": (_TORCH_TESTS, "-k", "not TORCHEXPORT"),
}
_TARGET_RATE = {"ops": 0.99, "torch": 0.99, "optimized": 0.95, "optimized-other": 0.95}
_POLL_SECONDS = 0.5
_SITE_PACKAGES = Path(coremltools.__file__).parents[1]
_CACHE = Path(".cache/conformance")


@dataclass(frozen=True)
class Summary:
    """Outcome of a run.

    Attributes:
        suite: the suite that ran.
        executed: cases that asked for a prediction (a conversion, in the suite ``optimized``),
            without those of ``beyond_fp16``.
        passed: executed cases whose comparisons held.
        given_up: executed and passed among the cases that the tests themselves give up on.
        other_operators: those of them that then fail, since they look for operators that
            coremltools itself would have chosen.
        failed: executed cases that failed, with their reasons.
        unlisted: those of them without an entry in the list of known failures.
        without_prediction: outcomes of cases that never asked for a prediction.
        skipped: cases that the tests themselves skip, by their reason.
        beyond_fp16: executed and passed among the fp32 cases that declare fp16 inputs or weights.
            A package holds these rounded to fp16, expected values are computed from unrounded
            ones, and the fp32 tolerance is finer than the difference. The same cases are among
            the fp16 ones, where they count.
    """

    suite: str
    executed: int
    passed: int
    given_up: dict[str, int]
    other_operators: int
    failed: dict[str, str]
    unlisted: tuple[str, ...]
    without_prediction: dict[str, int]
    skipped: dict[str, int]
    beyond_fp16: dict[str, int]

    @property
    def rate(self) -> float:
        """Passed over executed cases."""
        return self.passed / self.executed if self.executed else 0.0

    @property
    def ok(self) -> bool:
        """Whether every failure is listed and enough cases pass."""
        return not self.unlisted and self.rate >= _TARGET_RATE[self.suite]


def run(
    suite: str,
    log: Path,
    sample: int = 0,
    fp32: bool = False,
    fault: bool = False,
    jobs: int = 1,
    fraction: float = 1.0,
    seed: int = 0,
) -> None:
    """Runs the tests of ``suite`` that ``log`` does not hold yet and appends their outcomes."""
    optimized = suite.startswith("optimized")
    environment = {**os.environ, "PYMIL_TEST_TARGETS": "mlprogram", "OMP_NUM_THREADS": "1"}
    environment["INCLUDE_MIL_FP32_UNIT_TESTS"] = "1" if fp32 else "0"
    environment["TORCH_FRONTENDS"] = "TORCHEXPORT" if optimized else "TORCHSCRIPT"
    with tempfile.TemporaryDirectory() as directory:
        done = Path(directory) / "done.txt"
        done.write_text("\n".join(read(log)), encoding="utf-8")
        arguments = [
            *("-c", os.devnull, "--rootdir", str(_SITE_PACKAGES)),
            *("-p", "benchmarks.conformance_plugin", "-p", "no:cacheprovider"),
            *(("-p", "benchmarks.conformance_optimized") if optimized else ()),
            *("-q", "--no-header", "--tb=no", "-W", "ignore"),
            *("--conformance-log", str(log.resolve()), "--skip-listed", str(done)),
            *(("--sample", str(sample)) if sample else ()),
            *("--fraction", str(fraction), "--seed", str(seed)),
            *(("--plant-fault",) if fault else ()),
            *(("-n", str(jobs)) if jobs > 1 else ()),
            *("--pyargs", *_SUITES[suite]),
        ]
        output = Path(directory) / "pytest.txt"
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *arguments],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            try:
                _show_progress(process, log, sample)
            finally:
                process.terminate()
                process.wait()
        # 0: all passed, 1: some failed; anything else did not run the tests.
        if process.returncode not in (0, 1):
            raise click.ClickException(
                f"pytest ended with code {process.returncode}:\n{output.read_text()[-3000:]}"
            )


def read(log: Path) -> dict[str, dict[str, Any]]:
    """The last record of each test in ``log``, by test id."""
    if not log.exists():
        return {}
    lines = log.read_text(encoding="utf-8").splitlines()
    return {record["test"]: record for record in map(json.loads, lines)}


def summarize(records: Iterable[dict[str, Any]], suite: str = "ops") -> Summary:
    """Counts over the records of a run of ``suite``."""
    known = json.loads(_KNOWN.read_text(encoding="utf-8"))
    records = list(records)
    judged = [r for r in records if _took_part(r, suite) and r["outcome"] != "skipped"]
    beyond = [r for r in judged if _is_beyond_fp16(r)]
    executed = [r for r in judged if not _is_beyond_fp16(r)]
    failed = [r for r in executed if not _passed(r)]
    reasons = {}
    unlisted = []
    for record in failed:
        listed = [
            entry["reason"]
            for entry in known
            if entry["test"] in record["test"] and entry["case"] in record["test"]
        ]
        reasons[record["test"]] = listed[0] if listed else record["reason"]
        if not listed:
            unlisted.append(record["test"])
    idle = Counter(
        r["outcome"] for r in records if not _took_part(r, suite) and r["outcome"] != "skipped"
    )
    skipped = Counter(r["reason"] for r in records if r["outcome"] == "skipped")
    return Summary(
        suite=suite,
        executed=len(executed),
        passed=len(executed) - len(failed),
        given_up=_tally(r for r in executed if r.get("gave_up")),
        other_operators=sum(_passed(r) and r["outcome"] == "failed" for r in executed),
        failed=reasons,
        unlisted=tuple(unlisted),
        without_prediction=dict(idle),
        skipped=dict(skipped),
        beyond_fp16=_tally(beyond),
    )


def _tally(records: Iterable[dict[str, Any]]) -> dict[str, int]:
    held = [_passed(record) for record in records]
    return {"executed": len(held), "passed": sum(held)}


def _took_part(record: dict[str, Any], suite: str) -> bool:
    return bool(record["compared"] if suite.startswith("optimized") else record["predictions"])


def _passed(record: dict[str, Any]) -> bool:
    """Whether every comparison held; what a test asserts of the operators is another matter."""
    all_held = 0 < record["compared"] == record["held"]
    return record["outcome"] == "passed" or all_held


def _is_beyond_fp16(record: dict[str, Any]) -> bool:
    return record["precision"] == "fp32" and record["declares_fp16"]


def _show_progress(process: subprocess.Popen[bytes], log: Path, sample: int) -> None:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("tests", total=sample or None)
        before = len(read(log))
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            if not progress.disable:
                progress.update(task, completed=len(read(log)) - before)


@click.command()
@click.option("--suite", type=click.Choice(list(_SUITES)), default="ops", show_default=True)
@click.option("--sample", type=int, default=0, help="So many cases, the same ones each time.")
@click.option("--fraction", type=float, default=1.0, help="This part of the cases, at random.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which part.")
@click.option("--fp32", is_flag=True, help="Include the fp32 cases.")
@click.option("--plant-fault", is_flag=True, help="Disturb every prediction: most must fail.")
@click.option("--resume", is_flag=True, help="Keep what an interrupted run has finished.")
@click.option("--jobs", type=int, default=1, show_default=True, help="Processes.")
@click.option("--json", "as_json", is_flag=True)
def main(
    suite: str,
    sample: int,
    fraction: float,
    seed: int,
    fp32: bool,
    plant_fault: bool,
    resume: bool,
    jobs: int,
    as_json: bool,
) -> None:
    """Run coremltools' own tests against the interpreter."""
    name = "-".join([suite, *(["fp32"] if fp32 else []), *(["fault"] if plant_fault else [])])
    _CACHE.mkdir(parents=True, exist_ok=True)
    part = f"-{fraction:g}-{seed}" if fraction < 1 else ""
    log = _CACHE / f"{name}{f'-{sample}' if sample else ''}{part}.jsonl"
    if not resume:
        log.unlink(missing_ok=True)
    run(suite, log, sample, fp32, plant_fault, jobs, fraction, seed)
    summary = summarize(read(log).values(), suite)
    if as_json:
        click.echo(json.dumps({**vars(summary), "rate": summary.rate, "ok": summary.ok}, indent=2))
    else:
        _print(summary)
    if plant_fault:
        raise SystemExit(0 if summary.rate < _TARGET_RATE[suite] else 1)
    # A sample holds every odd test function but few cases of the large ones: its rate says little.
    raise SystemExit(0 if (not summary.unlisted if sample else summary.ok) else 1)


def _print(summary: Summary) -> None:
    idle = ", ".join(f"{count} {kind}" for kind, count in summary.without_prediction.items())
    click.echo(
        f"executed {summary.executed}, passed {summary.passed} ({summary.rate:.2%}), "
        f"failed {len(summary.failed)} ({len(summary.unlisted)} not listed), "
        f"skipped by the tests {sum(summary.skipped.values())}, "
        f"without prediction: {idle or 'none'}"
    )
    if summary.given_up["executed"]:
        click.echo(
            f"among these, cases that coremltools' tests give up on: "
            f"{summary.given_up['executed']}, of which {summary.given_up['passed']} pass"
        )
    if summary.other_operators:
        click.echo(
            f"of those that passed, {summary.other_operators} then look for operators that only "
            "coremltools' own graph has"
        )
    if summary.beyond_fp16["executed"]:
        click.echo(
            f"fp32 cases that declare fp16 values, not counted: {summary.beyond_fp16['executed']}, "
            f"of which {summary.beyond_fp16['passed']} meet the fp32 tolerance"
        )
    for test, reason in summary.failed.items():
        mark = "UNLISTED " if test in summary.unlisted else ""
        click.echo(f"{mark}{test}\n    {reason}")
    for reason, count in sorted(summary.skipped.items(), key=lambda item: -item[1]):
        click.echo(f"skipped x{count}: {reason}")


if __name__ == "__main__":
    main()
