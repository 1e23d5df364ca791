"""What stock coremltools makes of a model: both of its routes, converted and executed."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import coremltools as ct
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.stock import stock_convert
from frontend.structure import flatten
from lowering import predict
from lowering.support.quiet import quiet_coremltools
from lowering.verification.parity import rel_l2

# Far above what rounding to fp16 does to a model of a few layers, far below a wrong result.
WRONG = 0.1


class _Positional(nn.Module):
    """A module called with the tensors of its arguments in order, giving a tuple of tensors."""

    def __init__(self, module: nn.Module, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = module
        leaves, self.spec = pytree.tree_flatten(dict(arguments))
        self.names = tuple(f"input_{i}" for i in range(len(leaves)))

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        result = self.module(**pytree.tree_unflatten(list(leaves), self.spec))
        return tuple(leaf for leaf in flatten(result).leaves if isinstance(leaf, Tensor))


def stock_side(
    module: nn.Module, example: Mapping[str, Any], check: Mapping[str, Any]
) -> dict[str, Any]:
    """For each route ``trace`` and ``export``: ``ok``, ``wrong`` or why it fails, and its seconds.

    Args:
        module: the model; copied for each route.
        example: keyword arguments to convert with.
        check: other ones, on which the package is executed by the interpreter.
    """
    found: dict[str, Any] = {}
    for route, converted in (("trace", _trace), ("export", _export)):
        private = _Positional(copy.deepcopy(module), example).eval()
        start = time.perf_counter()
        try:
            mlmodel = converted(private, tuple(pytree.tree_leaves(dict(example))))
            verdict = _executed(mlmodel, private, tuple(pytree.tree_leaves(dict(check))))
        except Exception as error:  # whatever stock raises is its result
            verdict = f"{type(error).__name__}: {_line(error)}"
        found[route] = verdict
        found[f"{route} seconds"] = round(time.perf_counter() - start, 2)
    return found


def _trace(module: nn.Module, leaves: tuple[Tensor, ...]) -> ct.models.MLModel:
    return stock_convert(module, leaves).mlmodel


def _export(module: nn.Module, leaves: tuple[Tensor, ...]) -> ct.models.MLModel:
    with quiet_coremltools(), torch.no_grad():
        program = torch.export.export(module, leaves, strict=False).run_decompositions({})
        return ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        )


def _executed(mlmodel: ct.models.MLModel, module: _Positional, leaves: tuple[Tensor, ...]) -> str:
    names = [each.name for each in mlmodel.get_spec().description.input]
    if len(names) != len(leaves):
        return f"wrong: takes {len(names)} of {len(leaves)} inputs"
    arrays = {name: leaf.numpy() for name, leaf in zip(names, leaves, strict=True)}
    with torch.no_grad():
        wanted = module(*leaves)
    outputs = list(predict(mlmodel, arrays).values())
    if len(outputs) != len(wanted):
        return f"wrong: gives {len(outputs)} of {len(wanted)} outputs"
    error = max(
        (rel_l2(torch.as_tensor(a), b) for a, b in zip(outputs, wanted, strict=True)), default=0.0
    )
    return "ok" if error <= WRONG else f"wrong: relative error {error:.2g}"


def _line(error: BaseException) -> str:
    return (str(error).strip() or "without a message").splitlines()[0][:160]
