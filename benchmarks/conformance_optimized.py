"""Pytest plugin that sends coremltools' torch op tests through our own pipeline.

Loaded after ``benchmarks.conformance_plugin``. Each test's module is captured and optimised with
``passes.optimize_for_ane`` and converted with ``lowering.convert``; the prediction is compared with
the eager module's result, with the test's own tolerance. A test takes part as soon as it asks for
a conversion: one that cannot be captured or converted counts as executed, and failed.

Where a test gives up beforehand on what coremltools cannot do (``pytest.xfail``), it goes on here.
Some then look for operators of coremltools' own graph, which optimising changes. The
log tells comparisons that were asked for (``compared``) from those that held (``held``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import coremltools as ct
import pytest
import torch
from torch import Tensor

import lowering
from benchmarks.conformance_plugin import LOG, Log
from passes import optimize_for_ane

_TESTING = "coremltools.converters.mil.frontend.torch.test.testing_utils"
_LEAST_TARGET, _USUAL_TARGET = ct.target.iOS16, ct.target.iOS17
_PRECISIONS = {"fp16": ct.precision.FLOAT16, "fp32": ct.precision.FLOAT32}


@dataclass(frozen=True)
class _Given:
    """What a test converts: takes the place of its exported program."""

    model: torch.nn.Module
    dynamic_shapes: Any

    def __call__(self, *inputs: Tensor) -> object:
        return self.model(*inputs)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Replaces the export and the conversion in coremltools' test helpers."""
    import importlib

    # The helpers leave the export front end out on x86, where its tests were never run.
    with mock.patch("platform.machine", return_value="arm64"):
        testing: Any = importlib.import_module(_TESTING)
    log = config.stash[LOG]
    testing.export_torch_model_to_frontend = _given
    testing.convert_to_mlmodel = _convert
    testing.convert_and_compare = _counted(testing.convert_and_compare, log)

    def go_on(reason: str = "") -> None:
        """Stands in for ``pytest.xfail``."""
        log.gave_up = True

    pytest.xfail = go_on  # type: ignore[assignment]


def _given(
    model: torch.nn.Module,
    input_data: object,
    frontend: object,
    use_scripting: bool = False,
    torch_export_dynamic_shapes: object = None,
) -> _Given:
    model.eval()
    return _Given(model, torch_export_dynamic_shapes)


def _convert(
    model_spec: _Given,
    tensor_inputs: Sequence[Tensor],
    backend: tuple[str, str] = ("mlprogram", "fp32"),
    converter_input_type: Sequence[ct.TensorType] | None = None,
    compute_unit: ct.ComputeUnit = ct.ComputeUnit.CPU_ONLY,
    minimum_deployment_target: ct.target | None = None,
    converter: object = None,
) -> ct.models.MLModel:
    optimized = optimize_for_ane(
        model_spec.model, tuple(tensor_inputs), dynamic_shapes=model_spec.dynamic_shapes
    )
    return lowering.convert(
        optimized,
        inputs=converter_input_type,
        compute_precision=_PRECISIONS[backend[1]],
        compute_units=compute_unit,
        minimum_deployment_target=max(minimum_deployment_target or _USUAL_TARGET, _LEAST_TARGET),
    )


def _counted(compare: Callable[..., Any], log: Log) -> Callable[..., Any]:
    def convert_and_compare(*args: object, **kwargs: object) -> object:
        log.compared += 1
        result = compare(*args, **kwargs)
        log.held += 1
        return result

    return convert_and_compare
