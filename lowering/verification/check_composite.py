"""Proof of a composite: the eager operator against its MIL, run in the reference interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import coremltools as ct
import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from lowering.conversion.composites import Composite, Sample
from lowering.conversion.converter import convert
from lowering.errors import CompositeError
from lowering.reference import predict

# Both sides compute in float32; what is left is the order of summation.
RTOL, ATOL = 1e-4, 1e-5


class _Calls(nn.Module):
    """Calls one operator once per sample; plain tensors are inputs, all else is fixed."""

    def __init__(self, op: torch._ops.OpOverload, samples: Sequence[Sample]) -> None:
        super().__init__()
        leaves, self.structure = pytree.tree_flatten([_call(sample) for sample in samples])
        self.op = op
        self.inputs = [leaf for leaf in leaves if _is_input(leaf)]
        self.fixed = [None if _is_input(leaf) else leaf for leaf in leaves]
        self.open = [_is_input(leaf) for leaf in leaves]
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, nn.Parameter):
                self.register_parameter(f"constant_{index}", leaf)

    def forward(self, *tensors: torch.Tensor) -> list[Any]:
        """Result for each sample, its inputs replaced by ``tensors``."""
        rest = iter(tensors)
        pairs = zip(self.open, self.fixed, strict=True)
        leaves = [next(rest) if is_open else fixed for is_open, fixed in pairs]
        calls = pytree.tree_unflatten(leaves, self.structure)
        return [self.op(*args, **kwargs) for args, kwargs in calls]


def check_composite(
    composite: Composite,
    *,
    rtol: float = RTOL,
    atol: float = ATOL,
    minimum_deployment_target: ct.target = ct.target.iOS17,
) -> float:
    """Convert a program that calls the operator on each sample; compare with the eager operator.

    Everything is computed in float32. Tensors of a sample become inputs of the program;
    ``nn.Parameter`` s become constants, as weights do.

    Args:
        composite: what the ``@composite`` decorator made.
        rtol: relative tolerance, per element.
        atol: absolute tolerance, per element.
        minimum_deployment_target: opset of the MIL.

    Returns:
        The largest absolute error over all samples.

    Raises:
        CompositeError: the results differ; shows the operator, the sample, what was expected
            and found, and the size of the error.
        LoweringError: the program cannot be converted.
    """
    module = _Calls(composite.op, composite.samples)
    with torch.no_grad():
        expected = module(*module.inputs)
    # In program order: the results of the first sample, then those of the next.
    wanted = [
        (number, _array(tensor))
        for number, result in enumerate(expected)
        for tensor in _tensors(result)
    ]
    found = _through_mil(composite, module, minimum_deployment_target)
    return max(
        _compare(composite, number, want, got, rtol, atol)
        for (number, want), got in zip(wanted, found, strict=True)
    )


def _through_mil(composite: Composite, module: _Calls, target: ct.target) -> list[np.ndarray]:
    """Results of the converted operator, in order."""
    with torch.no_grad():
        program = torch.export.export(module, tuple(module.inputs), strict=False)
    mlmodel = convert(
        program.run_decompositions({}),  # an ATen operator is bound as it is, not taken apart
        composites=(composite,),
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=target,
        skip_model_load=True,
    )
    description = mlmodel.get_spec().description
    feed = {
        entry.name: np.atleast_1d(_array(tensor))
        for entry, tensor in zip(description.input, module.inputs, strict=True)
    }
    results = predict(mlmodel, feed)
    return [np.asarray(results[entry.name]) for entry in description.output]


def _compare(
    composite: Composite, number: int, want: np.ndarray, got: np.ndarray, rtol: float, atol: float
) -> float:
    if want.ndim == 0 and got.shape == (1,):
        got = got.reshape(())  # a package returns no scalars
    if want.shape != got.shape:
        raise _wrong(composite, number, f"shape {want.shape}", f"shape {got.shape}")
    with np.errstate(invalid="ignore"):  # infinity less infinity
        difference = np.abs(want.astype(np.float64) - got.astype(np.float64))
    allowed = atol + rtol * np.abs(want.astype(np.float64))
    # Equal infinities and NaN in the same places are no difference.
    same = (want == got) | (np.isnan(want) & np.isnan(got))
    excess = np.where(same, -np.inf, difference - allowed)
    bad = ~same & ~(difference <= allowed)
    if not bad.any():
        return float(np.where(same, 0.0, difference).max(initial=0.0))
    where = np.unravel_index(int(np.nanargmax(np.where(bad, excess, -np.inf))), want.shape)
    raise _wrong(
        composite,
        number,
        f"{want[where]:.6g} at {tuple(int(i) for i in where)}",
        f"{got[where]:.6g}, off by {difference[where]:.3g}; {int(bad.sum())} of {bad.size} "
        f"elements are beyond rtol {rtol:g}, atol {atol:g}",
    )


def _wrong(composite: Composite, number: int, expected: str, found: str) -> CompositeError:
    return CompositeError(
        f"composite {composite.name!r} computes something else than its operator",
        op=f"{composite.op}, sample {number}: {_described(composite.samples[number])}",
        expected=expected,
        found=found,
        hint="compare the MIL written by the composite with the operator's eager code",
    )


def _described(sample: Sample) -> str:
    def one(value: object) -> str:
        if isinstance(value, torch.Tensor):
            return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        return repr(value)

    return "(" + ", ".join(one(value) for value in sample) + ")"


def _call(sample: Sample) -> tuple[Sample, dict[str, Any]]:
    """Positional and keyword arguments; a dictionary at the end of a sample holds the latter."""
    if sample and isinstance(sample[-1], dict):
        return sample[:-1], sample[-1]
    return sample, {}


def _is_input(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor) and not isinstance(leaf, nn.Parameter)


def _tensors(result: object) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _array(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.detach().cpu().numpy()
    return array.astype(np.int32) if array.dtype.kind in "biu" else array.astype(np.float32)
