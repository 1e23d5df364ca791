"""Runs cases, each in a process of its own that starts with everything imported.

A new Python takes seconds to import torch and coremltools. Here one process imports them and calls
each verb once; a case is run by a copy of it (``fork``), which can crash, hang, eat memory or leave
what it likes in ``sys.modules`` without harm to the next.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.hostile.case import OUTPUT, RUN, Case

# A verb on one of these tiny models takes a second or two; twenty times that is a hang.
CPU_SECONDS = 40
# The same by the clock, for what waits instead of computing, on a machine that others use too.
WALL_SECONDS = 300
# Beyond what the warm process has mapped; the models need a few megabytes.
MEMORY = 6 << 30
# What a process returns that ended by an exception which no verb caught.
EXIT_UNCAUGHT = 70

_LOGS = ("stdout", "stderr")
_WAIT = 0.01  # seconds between looks at the running cases


@dataclass(frozen=True)
class Ran:
    """What a command did.

    Attributes:
        case: the case.
        code: its exit code; negative for the signal that ended it.
        seconds: by the clock.
        timed_out: whether it was ended for taking too long.
        stdout, stderr: what it printed.
        before, after: files of the case's folder by path: what they are and hold.
    """

    case: Case
    code: int
    seconds: float
    timed_out: bool
    stdout: str
    stderr: str
    before: dict[str, str]
    after: dict[str, str]


@dataclass
class _Running:
    case: Case
    folder: Path
    before: dict[str, str]
    pid: int
    start: float = field(default_factory=time.monotonic)
    timed_out: bool = False


def run(cases: Sequence[Case], root: Path, jobs: int) -> Iterator[Ran]:
    """Every case in a folder below ``root``, in the order in which they end.

    Args:
        cases: what to run.
        root: an empty folder; each case's is removed when it has ended.
        jobs: cases at a time.
    """
    waiting = list(enumerate(cases))[::-1]
    running: list[_Running] = []
    gc.collect()
    gc.freeze()  # copies share the pages of objects that nobody touches
    while waiting or running:
        while waiting and len(running) < jobs:
            number, case = waiting.pop()
            running.append(_started(case, root / f"{number:04}"))
        time.sleep(_WAIT)
        for one in list(running):
            ended = _ended(one)
            if ended is not None:
                running.remove(one)
                yield ended


def apart(action: Callable[[], object]) -> None:
    """Do ``action`` in a copy of this process that ends as any process does.

    Raises:
        RuntimeError: it failed.
    """
    pid = os.fork()
    if pid == 0:
        code = EXIT_UNCAUGHT
        try:
            action()
            atexit._run_exitfuncs()
            code = 0
        except BaseException:  # as in _child
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError("the sound packages could not be made, see above")


def _started(case: Case, folder: Path) -> _Running:
    for name in (RUN, "tmp", "log"):
        (folder / name).mkdir(parents=True)
    (folder / RUN / OUTPUT).mkdir()
    case.make(folder / RUN)
    before = snapshot(folder)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(case, folder)
    return _Running(case, folder, before, pid)


def _ended(one: _Running) -> Ran | None:
    pid, status = os.waitpid(one.pid, os.WNOHANG)
    seconds = time.monotonic() - one.start
    if pid == 0:
        if seconds > WALL_SECONDS and not one.timed_out:
            one.timed_out = True
            os.kill(one.pid, signal.SIGKILL)
        return None
    code = os.waitstatus_to_exitcode(status)
    stdout, stderr = (
        (one.folder / "log" / name).read_text("utf-8", errors="replace") for name in _LOGS
    )
    after = snapshot(one.folder)
    for path in one.folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(one.folder)
    timed_out = one.timed_out or code == -signal.SIGXCPU
    return Ran(one.case, code, seconds, timed_out, stdout, stderr, one.before, after)


def snapshot(folder: Path) -> dict[str, str]:
    """What lies in a case's folder but for its logs: for each path its kind and content."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            relative = str(path.relative_to(folder))
            if relative.split(os.sep)[0] != "log":
                found[relative] = _content(path)
    return found


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    if path.is_dir():
        return "folder"
    if not path.is_file():
        return "other"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _child(case: Case, folder: Path) -> None:
    """Be ``ane-passes`` with the case's arguments; does not return."""
    code = EXIT_UNCAUGHT
    try:
        for number, name in enumerate(_LOGS, start=1):
            log = os.open(folder / "log" / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _limit()
        os.chdir(folder / RUN)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        sys.dont_write_bytecode = True  # Python's own copies beside a module are none of ours
        code = _called(case.arguments)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # whatever it is, this copy must not go on as the campaign
        code = EXIT_UNCAUGHT
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _limit() -> None:
    process = psutil.Process()
    used = process.cpu_times()
    seconds = int(used.user + used.system) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    memory = process.memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _called(arguments: Sequence[str]) -> int:
    from lowering.cli import main

    try:
        main.main(args=list(arguments), prog_name="ane-passes")
    except SystemExit as error:
        if error.code is None:
            return 0
        return error.code if isinstance(error.code, int) else 1
    return 0
