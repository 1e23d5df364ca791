"""Pytest plugin that lets coremltools' own tests predict on any OS, through the interpreter.

coremltools' tests compare a prediction with expected values only on macOS. Loaded with
``-p benchmarks.conformance_plugin``, this plugin tells them that they run there and answers
``MLModel.predict`` and ``MLModel.make_state`` with ``lowering.reference``. The comparisons and
their tolerances are those of the tests.

The suite's fp16 cases run at precision ``fp16``, each value rounded as declared. Its fp32 cases
have tolerances finer than fp16 resolves; they run at precision ``fp32``, which changes nothing
where no fp16 is declared. Some declare fp16 inputs and weights all the same; the log says which.

Each test's outcome goes to ``--conformance-log`` as one JSON line. ``--plant-fault`` disturbs every
prediction, to show that the comparisons notice.
"""

from __future__ import annotations

import gc
import json
import random
import re
import zlib
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools._deps
import coremltools.models.model
import coremltools.models.utils
import numpy as np
import pytest
import torch

from lowering.package.blocks import walk
from lowering.package.dtypes import FP16
from lowering.package.proto import MIL_pb2
from lowering.reference import ExecutionError, LoadedModel, State
from lowering.reference.program import declared

# The version that the tests believe to run on: all opsets up to iOS18 with all bugs fixed.
_MACOS_VERSION = (15, 5)
_THREADS = 1  # the tests are tiny; threads only add overhead
# What a planted fault does to float outputs: beyond the loosest tolerance of the tests.
_FAULT_SCALE, _FAULT_SHIFT = 1.5, 2.0

_MODEL_CLASS = ct.models.MLModel
_LOADED = "_conformance_loaded"
# How the names of parametrized cases tell their precision: MIL op tests, torch op tests.
_FP32_CASE = re.compile(r"precision='fp32'|\('mlprogram', 'fp32'")


class Log:
    """Outcomes of one session."""

    def __init__(self, path: Path | None, fault: bool) -> None:
        self.path = path
        self.fault = fault
        self.predictions = 0
        self.precision = "fp16"
        self.declares_fp16 = False
        self.compared = self.held = 0
        self.gave_up = False

    def write(self, record: dict[str, Any]) -> None:
        """Append one outcome to the file, where there is one."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


LOG = pytest.StashKey[Log]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the plugin."""
    group = parser.getgroup("conformance")
    group.addoption("--conformance-log", type=Path, help="append outcomes to this file")
    group.addoption("--plant-fault", action="store_true", help="disturb every prediction")
    group.addoption("--sample", type=int, default=0, help="run so many tests, the same each time")
    group.addoption("--fraction", type=float, default=1.0, help="run this part, drawn at random")
    group.addoption("--seed", type=int, default=0, help="which part")
    group.addoption("--skip-listed", type=Path, help="skip the test ids in this file")


def pytest_configure(config: pytest.Config) -> None:
    """Patches coremltools before any test module is imported."""
    log = Log(config.getoption("--conformance-log"), config.getoption("--plant-fault"))
    config.stash[LOG] = log
    torch.set_num_threads(_THREADS)
    coremltools._deps._IS_MACOS = True
    for module in (coremltools.models.utils, coremltools.models.model):
        module._is_macos = lambda: True
        module._macos_version = lambda: _MACOS_VERSION
    _MODEL_CLASS.predict = _predict_with(log)
    _MODEL_CLASS.make_state = lambda model: _loaded(model, log.precision).make_state()


@pytest.hookimpl(trylast=True)  # after pytest's own selection
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps a sample, and drops the tests that an earlier run has finished."""
    fraction, seed = config.getoption("--fraction"), config.getoption("--seed")
    if fraction < 1:
        items[:] = _drawn(items, fraction, seed)
    count = config.getoption("--sample")
    if count:
        items[:] = _sample(items, count)
    listed = config.getoption("--skip-listed")
    if listed is not None:
        done = set(listed.read_text(encoding="utf-8").splitlines())
        items[:] = [item for item in items if item.nodeid not in done]
    # Every ct.convert collects garbage; the modules and tests loaded by now are none, and walking
    # them is most of a test's time.
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Starts a test: nothing predicted yet, the precision that its name asks for.

    What earlier tests left, and coremltools keeps, is no garbage either: frozen, it is not walked.
    """
    gc.freeze()
    log = item.config.stash[LOG]
    log.predictions = 0
    log.declares_fp16 = False
    log.compared = log.held = 0
    log.gave_up = False
    log.precision = "fp32" if _FP32_CASE.search(item.nodeid) else "fp16"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Logs the outcome of each test and how often it predicted."""
    report = yield
    log = item.config.stash[LOG]
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        log.write(
            {
                "test": item.nodeid,
                "outcome": report.outcome,
                "predictions": log.predictions,
                "precision": log.precision,
                "declares_fp16": log.declares_fp16,
                "compared": log.compared,
                "held": log.held,
                "gave_up": log.gave_up,
                "reason": _reason(report, call),
                "seconds": round(report.duration, 3),
            }
        )
    return report


def _sample(items: list[pytest.Item], count: int) -> list[pytest.Item]:
    """``count`` tests in their order: first one case of each test function, then another, ...

    Within a function the order of cases is that of a checksum of their names.
    """
    cases: dict[str, list[tuple[int, pytest.Item]]] = {}
    for item in items:
        key = item.nodeid.partition("[")[0]
        cases.setdefault(key, []).append((zlib.crc32(item.nodeid.encode()), item))
    ranked = []
    for function, members in cases.items():
        members.sort(key=lambda member: member[0])
        order = zlib.crc32(function.encode())
        ranked += [(rank, order, item) for rank, (_, item) in enumerate(members)]
    ranked.sort(key=lambda entry: entry[:2])
    chosen = {id(item) for _, _, item in ranked[:count]}
    return [item for item in items if id(item) in chosen]


def _drawn(items: list[pytest.Item], fraction: float, seed: int) -> list[pytest.Item]:
    """So many of the tests, each as likely as any other; the same ones for the same ``seed``."""
    count = max(1, round(len(items) * fraction))
    chosen = set(random.Random(seed).sample(range(len(items)), count))
    return [item for index, item in enumerate(items) if index in chosen]


def _reason(report: pytest.TestReport, call: pytest.CallInfo[None]) -> str:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    if report.outcome == "failed" and call.excinfo is not None:
        place = call.excinfo.traceback[-1]
        lines = [line for line in str(call.excinfo.value).splitlines() if line.strip()]
        text = " | ".join(lines[:6])
        if call.excinfo.value.__cause__ is not None:
            text += f" | from {call.excinfo.value.__cause__}"
        return f"{call.excinfo.typename} at {Path(place.path).name}:{place.lineno + 1}: {text}"
    return ""


def _loaded(model: ct.models.MLModel, precision: str) -> LoadedModel:
    if not hasattr(model, _LOADED):
        if model._spec.WhichOneof("Type") != "mlProgram":
            pytest.skip("not an ML Program")
        function = model.function_name or "main"
        setattr(model, _LOADED, LoadedModel(model, function, precision))
    return getattr(model, _LOADED)


def _declares_fp16(block: MIL_pb2.Block) -> bool:
    """Whether any value of a MIL block, constants included, is declared fp16."""
    return any(
        declared(output).dtype is FP16 for operation in walk(block) for output in operation.outputs
    )


def _predict_with(log: Log) -> Callable[..., object]:
    def predict(
        model: ct.models.MLModel, data: Mapping[str, Any], state: State | None = None
    ) -> object:
        """Stands in for ``MLModel.predict``."""
        model._check_predict_data(data)
        if isinstance(data, list):
            return [predict(model, item) for item in data]
        model._verify_input_dict(data)
        model._convert_tensor_to_numpy(data)
        log.predictions += 1
        loaded = _loaded(model, log.precision)
        program = model._spec.mlProgram
        for function in program.functions.values():
            for block in function.block_specializations.values():
                log.declares_fp16 |= _declares_fp16(block)
        try:
            outputs = loaded(data, state)
        except ExecutionError as error:
            # As Core ML says it; tests of invalid indices look for this text.
            raise RuntimeError("Unable to compute the prediction using ML Program") from error
        return {name: _disturbed(item) for name, item in outputs.items()} if log.fault else outputs

    return predict


def _disturbed(value: object) -> object:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return (value * _FAULT_SCALE + _FAULT_SHIFT).astype(value.dtype)
    return value
