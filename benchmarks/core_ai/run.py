"""Models measured in a process beside, with results kept between runs."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from benchmarks.core_ai.sides import BROKEN, Verdict

ROOT = Path(__file__).parents[2]
CACHE = Path(".cache/core_ai")
# The slowest model takes some five minutes on a busy core; what goes on longer is taken to hang.
TIMEOUT_SECONDS = 900.0
_PACKAGES = ("torch", "numpy", "transformers", "coreai-torch", "coreai-core")


def run(
    names: Iterable[str],
    ways: Iterable[str],
    *,
    resume: bool = False,
    done: Callable[[str, dict[str, Any]], None] = lambda name, found: None,
) -> dict[str, dict[str, Any]]:
    """Verdicts by name and way, in the order of ``names``.

    Args:
        names: models of the zoo.
        ways: some of ``benchmarks.core_ai.measure.WAYS``.
        resume: keep results of earlier sources too.
        done: called with each result as it arrives, kept ones included.
    """
    key, asked = sources_key(), list(ways)
    results: dict[str, dict[str, Any]] = {}
    missing: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        results[name] = {way: found for way, found in kept(name).items() if way in asked}
        fresh = {w for w, found in results[name].items() if resume or found["key"] == key}
        left = tuple(way for way in asked if way not in fresh)
        if left:
            missing.setdefault(left, []).append(name)
        else:
            done(name, results[name])
    for left, waiting in missing.items():
        while waiting:
            for name, found in _in_a_process(left, waiting):
                waiting.remove(name)
                results[name] |= {way: {**one, "key": key} for way, one in found.items()}
                _write(name, {**kept(name), **results[name]})
                done(name, results[name])
    return results


def sources_key() -> str:
    """A hash of what a result depends on: our sources and the installed versions."""
    versions = {package: metadata.version(package) for package in _PACKAGES}
    digest = hashlib.sha256(json.dumps(versions).encode())
    for package in ("frontend", "passes", "lowering", "benchmarks/zoo", "benchmarks/core_ai"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def kept(name: str) -> dict[str, Any]:
    """The last results of a model, by way, of whatever sources."""
    path = _path(name)
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _in_a_process(ways: tuple[str, ...], names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Results as they arrive; what ended the process, or took too long, is the last."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.core_ai.measure", ",".join(ways)]
    with tempfile.TemporaryDirectory(prefix="ane-passes-core-ai-") as folder:
        process = subprocess.Popen(
            [*command, *names],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**environment, "TMPDIR": folder},
        )
        assert process.stdout is not None
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True).start()
        try:
            for name in list(names):
                try:
                    line = lines.get(timeout=TIMEOUT_SECONDS)
                except queue.Empty:
                    yield name, _ended(ways, f"took more than {TIMEOUT_SECONDS:g} s")
                    return
                if not line:
                    yield name, _ended(ways, f"ended the process, exit code {process.wait()}")
                    return
                yield name, json.loads(line)["found"]
        finally:
            process.kill()
            process.wait()


def _forward(stream: IO[str], lines: queue.Queue[str]) -> None:
    """Every result of the process, and at its end an empty line."""
    for line in stream:
        if line.startswith("{"):  # others are what models print
            lines.put(line)
    lines.put("")


def _ended(ways: Iterable[str], reason: str) -> dict[str, Any]:
    verdict = asdict(Verdict(BROKEN, reason=reason))
    return {way: {"ours": verdict, "plain": verdict} for way in ways}


def _path(name: str) -> Path:
    return CACHE / f"{name.replace(':', '-').replace('/', '-')}.json"


def _write(name: str, found: dict[str, Any]) -> None:
    path = _path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(found, indent=1))
    fresh.replace(path)
