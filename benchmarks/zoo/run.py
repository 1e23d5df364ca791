"""Models measured in processes of their own, with results kept between runs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CACHE = Path(".cache/zoo")
# The slowest model takes two minutes on an idle core; a loop that unrolls for ever takes for ever.
TIMEOUT_SECONDS = 900
_PACKAGES = ("torch", "coremltools", "numpy", "transformers", "timm", "diffusers", "ultralytics")


def versions() -> dict[str, str]:
    """Version of each package that models are built or converted with, where installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def sources_key() -> str:
    """A hash of our sources and of the installed versions: what a result depends on."""
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for package in ("frontend", "passes", "lowering", "benchmarks/zoo"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def kept(name: str) -> dict[str, Any] | None:
    """The last result of a model, of whatever sources."""
    path = _path(name)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def run(
    names: Iterable[str],
    *,
    jobs: int,
    stock: bool,
    fresh: bool,
    resume: bool,
    safe: bool = False,
    done: Callable[[str, dict[str, Any]], None],
) -> dict[str, dict[str, Any]]:
    """Results by name, in the order of ``names``.

    Args:
        names: models to measure.
        jobs: processes at a time.
        stock: measure stock coremltools too. What it made of a model with the same packages is
            not measured again: it does not depend on our sources.
        fresh: measure everything again.
        resume: keep results of other sources too.
        safe: convert in safe precision too.
        done: called with each result as it arrives, kept ones included.
    """
    key = sources_key()
    results: dict[str, dict[str, Any]] = {}
    missing = []
    for name in names:
        last = None if fresh else kept(name)
        usable = last is not None and (resume or last.get("key") == key)
        if last is not None and usable and _has(last, stock, safe):
            results[name] = last
            done(name, last)
        else:
            missing.append(name)
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {
            pool.submit(_measured, name, key, stock, fresh, resume, safe): name for name in missing
        }
        for future in as_completed(waiting):
            name = waiting[future]
            results[name] = future.result()
            done(name, results[name])
    return {name: results[name] for name in names}


def _has(result: dict[str, Any], stock: bool, safe: bool) -> bool:
    """Whether a result has what is asked for."""
    return ("stock" in result or not stock) and (result.get("in_safe", False) or not safe)


def _measured(
    name: str, key: str, stock: bool, fresh: bool, resume: bool, safe: bool
) -> dict[str, Any]:
    last = None if fresh else kept(name)
    known = last.get("stock") if last and last.get("versions") == versions() else None
    ours = last if last and (resume or last.get("key") == key) else None
    if safe and ours is not None and not _has(ours, stock=False, safe=True):
        ours = None
    result = _in_a_process(name, ours is None, stock and known is None, safe)
    if ours is None:
        result["in_safe"] = safe
    if known is not None:
        result["stock"] = known
    # A kept result stays one of the sources that made it.
    result = {**(ours or {"key": key, "versions": versions()}), **result}
    _write(_path(name), json.dumps(result, indent=1))
    return result


def _in_a_process(name: str, ours: bool, stock: bool, safe: bool) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.zoo.measure", name]
    command += ["--ours" if ours else "--no-ours", "--stock" if stock else "--no-stock"]
    command += ["--safe"] if safe else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        # What a process that is ended, or that crashes, leaves behind goes with its folder.
        with tempfile.TemporaryDirectory(prefix="ane-passes-zoo-") as folder:
            process = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                cwd=ROOT,
                env={**environment, "TMPDIR": folder},
                check=False,
            )
    except subprocess.TimeoutExpired:
        return {"failed": {"process": f"took more than {TIMEOUT_SECONDS} s"}}
    if process.returncode:
        stage = "build" if process.returncode == 1 else "process"
        lines = process.stderr.strip().splitlines() or ["nothing on stderr"]
        return {"failed": {stage: f"exit code {process.returncode}: {lines[-1]}"}}
    result = json.loads(process.stdout.strip().splitlines()[-1])
    assert isinstance(result, dict)
    return result


def _path(name: str) -> Path:
    return CACHE / f"{name.replace(':', '-').replace('/', '-')}.json"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.replace(file.name, path)
