"""Whether a package passes, asked of the module itself.

The program of a module, and what the passes make of it, are needed to say where a package parts
from it, to count steps and to follow states. Most packages pass, and have none: two calls of the
module and one of the package then say the same, in a fraction of the time.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from frontend.capturing import call_arguments
from frontend.tensor_kinds import check_inputs, check_weights
from lowering.reference import ExecutionError, LoadedModel
from lowering.verification.original import HALF_ERRORS, private_copy, tensor_outputs
from lowering.verification.package_values import declares_fp16, feed, in_float32
from lowering.verification.parity import Parity, Thresholds, parity, rel_l2


def passes_at_once(
    model: LoadedModel,
    module: nn.Module,
    inputs: object,
    kwargs: Mapping[str, Any] | None,
    thresholds: Thresholds,
) -> tuple[Parity, ...] | None:
    """The outputs' errors where all are small enough; ``None`` where more must be known.

    More must be known of a package that fails or has states, images, a classifier or inputs that
    are not arguments of ``forward`` by name, and of a module whose own error in half precision
    says little.

    Args:
        model: the loaded package.
        module: what it was made from.
        inputs: positional inputs, as for ``capture``.
        kwargs: keyword inputs.
        thresholds: what is small enough.

    Raises:
        CaptureError: the module cannot be captured with these inputs.
    """
    args, keywords = call_arguments(module, inputs, kwargs)
    check_weights(module)
    check_inputs(module.forward, args, keywords)
    tensors = _named_tensors(module, args, keywords)
    if tensors is None or not _is_plain(model, tensors):
        return None
    expected = _outputs(module, args, keywords, half=False)
    is_fp16 = declares_fp16(model)
    half = _outputs(module, args, keywords, half=True) if is_fp16 else None
    if not expected or len(expected) != len(model.program.outputs) or (is_fp16 and half is None):
        return None
    try:
        results = model(feed(model, tensors, {}))
    except ExecutionError:
        return None
    yardsticks: Sequence[float | None] = [None] * len(expected)
    if half is not None:
        yardsticks = list(map(rel_l2, half, expected))
        if not all(thresholds.is_tight(y) and not thresholds.looseness(y) for y in yardsticks):
            return None
    compared = tuple(
        parity(
            output.name,
            in_float32(results[output.name]),
            want,
            thresholds.allowed(is_fp16, yardstick),
            yardstick,
        )
        for output, want, yardstick in zip(model.program.outputs, expected, yardsticks, strict=True)
        if output.name in results
    )
    if len(compared) < len(expected) or not all(item.passed for item in compared):
        return None
    return compared


def _named_tensors(
    module: nn.Module, args: tuple[Any, ...], keywords: Mapping[str, Any]
) -> dict[str, Tensor] | None:
    """The inputs by the names of the arguments; ``None`` where one is no tensor."""
    try:
        bound = inspect.signature(module.forward).bind(*args, **keywords).arguments
    except TypeError:
        return None
    given = {name: value for name, value in bound.items() if value is not None}
    return given if all(isinstance(value, Tensor) for value in given.values()) else None


def _is_plain(model: LoadedModel, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the package takes these names, and takes and gives arrays alone."""
    return (
        set(model.inputs) == set(tensors)
        and all(feature.image is None for feature in model.inputs.values())
        and all(feature.image is None for feature in model.outputs.values())
        and all(item.kind != "state" for item in model.program.inputs)
        and all(op.type != "classify" for op in model.ops)
    )


def _outputs(
    module: nn.Module, args: tuple[Any, ...], keywords: Mapping[str, Any], *, half: bool
) -> list[Tensor] | None:
    """The tensors that a copy of the module returns; ``None`` where this precision fails."""
    leaves, spec = pytree.tree_flatten((args, dict(keywords)))
    try:
        return tensor_outputs(private_copy(module, half=half), leaves, spec, half=half)
    except HALF_ERRORS:
        return None
