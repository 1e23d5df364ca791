"""What stock coremltools makes of a model: the other side of every comparison."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import coremltools as ct
import numpy as np
import torch
from numpy.lib import NumpyVersion
from torch import nn

from frontend.errors import kind_and_line
from lowering.support.quiet import quiet_coremltools

# Added to the scores of masked keys: far below any score, and finite in fp16.
MASKED = -1e4
# From here on numpy makes numbers of arrays without dimensions alone; coremltools' trace route asks
# them of arrays (1,).
_SCALARS_ONLY = "2.4.0"
# What coremltools and torch raise for models that they cannot take; anything else is our fault.
FAILURES = (NotImplementedError, RuntimeError, TypeError, ValueError, KeyError, AssertionError)


@dataclass(frozen=True)
class Stock:
    """A stock conversion.

    Attributes:
        mlmodel: an fp16 ML Program.
        capture_seconds: time of ``torch.jit.trace``, by the clock that was given.
        convert_seconds: time of ``ct.convert`` alone.
    """

    mlmodel: ct.models.MLModel
    capture_seconds: float
    convert_seconds: float


class ReadyMask(nn.Module):
    """A Hugging Face text model that is given its attention mask ready made.

    Stock coremltools cannot convert the mask that Hugging Face builds from (B, S) ones and zeros.
    Given the additive mask (B, 1, 1, S) or (B, 1, S, S) itself, the model builds none, and stock
    coremltools has something to convert.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """First output for ids (B, S), int64, and an additive mask, float32."""
        return self.model(input_ids=input_ids, attention_mask=mask, return_dict=False)[0]


def additive_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """``MASKED`` where a (B, S) mask is zero, as float32 (B, 1, S, S): a row for each query."""
    batch, keys = attention_mask.shape
    masked = (1.0 - attention_mask.float()) * MASKED
    return masked[:, None, None, :].expand(batch, 1, keys, keys).contiguous()


def stock_convert(
    module: nn.Module,
    inputs: Sequence[torch.Tensor],
    *,
    minimum_deployment_target: ct.target = ct.target.iOS17,
    clock: Callable[[], float] = time.perf_counter,
) -> Stock:
    """Traces and converts ``module`` as the guide of coremltools says.

    Args:
        module: in evaluation mode; takes ``inputs`` by position and returns tensors.
        inputs: example inputs; int64 becomes int32.
        minimum_deployment_target: as for ``ct.convert``.
        clock: gives seconds, wall or processor time.

    Raises:
        One of ``FAILURES``, as coremltools or torch raised it.
    """
    types = [ct.TensorType(shape=tuple(t.shape), dtype=_numpy_dtype(t)) for t in inputs]
    with _quiet(), torch.no_grad():
        start = clock()
        traced = torch.jit.trace(module, tuple(inputs), strict=False, check_trace=False)
        captured = clock()
        mlmodel = ct.convert(
            traced,
            inputs=types,
            convert_to="mlprogram",
            minimum_deployment_target=minimum_deployment_target,
            skip_model_load=True,
        )
        done = clock()
    return Stock(mlmodel, captured - start, done - captured)


def stock_failures(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """What stock coremltools says to an unchanged module, by route; empty if both routes work.

    Args:
        module: any module in evaluation mode.
        inputs: its keyword arguments.
    """
    found = {}
    for route, attempt in (("trace", _by_trace), ("export", _by_export)):
        try:
            attempt(module, inputs)
        except FAILURES as error:
            found[route] = said(error)
    return found


def said(error: Exception) -> str:
    """One of ``FAILURES`` in a line, and what would help where it is known."""
    text = kind_and_line(error)
    if isinstance(error, TypeError) and NumpyVersion(np.__version__) >= _SCALARS_ONLY:
        text += f" (the trace route of coremltools 9.0 needs numpy below {_SCALARS_ONLY[:-2]})"
    return text


def _by_trace(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> object:
    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *values: torch.Tensor) -> object:
            named = dict(zip(inputs, values, strict=True))
            return self.module(**named, return_dict=False)

    return stock_convert(Positional().eval(), tuple(inputs.values()))


def _by_export(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> object:
    with _quiet(), torch.no_grad():
        program = torch.export.export(module, (), kwargs=dict(inputs), strict=False)
        return ct.convert(
            program.run_decompositions({}),
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns about every Python branch of the model."""
    with quiet_coremltools(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _numpy_dtype(tensor: torch.Tensor) -> type[np.generic]:
    return np.float32 if tensor.is_floating_point() else np.int32
