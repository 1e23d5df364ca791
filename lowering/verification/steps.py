"""Calls of one model after the other, on inputs that differ, with what it writes kept between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from frontend.errors import first_line
from lowering.verification.original import HALF_ERRORS, Original, VerificationError

# Numbers of this size and larger are marks, such as those of masked places, and are left alone.
_MARK = 1e4
# An input whose numbers are all one is multiplied by a factor between these.
_FACTORS = (0.5, 1.5)


def step_inputs(original: Original, steps: int | Sequence[object]) -> list[Original]:
    """The original on the inputs of every step.

    Args:
        original: with the inputs of the first step.
        steps: how many, or the inputs of each: positional ones, a mapping by name, or the whole
            original with them. Where only
            the number is given, the numbers of each input are shuffled anew in each step, which
            keeps their range; an integer alone, such as a position, counts up as long as the
            original takes it. Booleans and marks of masked places stay.

    Raises:
        VerificationError: no step is asked for, or the inputs of one do not fit.
    """
    if not isinstance(steps, int):
        found = [
            given if isinstance(given, Original) else original.called(given) for given in steps
        ]
        if found:
            return found
    elif steps >= 1:
        generator = torch.Generator().manual_seed(0)
        return [original, *(_differing(original, step, generator) for step in range(1, steps))]
    raise VerificationError(
        "a verification takes one step or more",
        expected="steps=N from 1 on, or a list with the inputs of each step",
        found=repr(steps),
    )


def _differing(original: Original, step: int, generator: torch.Generator) -> Original:
    leaves = list(original.leaves)
    for position, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor) or leaf.dtype is torch.bool or not leaf.numel():
            continue
        if leaf.numel() == 1 and not leaf.is_floating_point():
            counted = [*leaves[:position], leaf + step, *leaves[position + 1 :]]
            if _takes(original, counted):
                leaves = counted
        elif not leaf.is_floating_point() or bool((leaf.abs() < _MARK).all()):
            leaves[position] = _shuffled(leaf, generator)
    return replace(original, leaves=tuple(leaves))


def _shuffled(leaf: Tensor, generator: torch.Generator) -> Tensor:
    flat = leaf.flatten()
    if leaf.is_floating_point() and bool((flat == flat[0]).all()):
        low, high = _FACTORS
        return leaf * (low + (high - low) * torch.rand((), generator=generator).to(leaf.dtype))
    return flat[torch.randperm(flat.numel(), generator=generator)].reshape(leaf.shape)


def _takes(original: Original, leaves: Sequence[object]) -> bool:
    """Whether the original can be called so: an index may lead out of a table."""
    module, called = original.private_module(), replace(original, leaves=tuple(leaves))
    try:
        # The module first: its program may mask what it refuses.
        called.results() if module is None else called.module_outputs(module)
    except (*HALF_ERRORS, IndexError):
        return False
    return True


class Session:
    """The original, called step after step; what it writes stays between the calls.

    Args:
        original: any step of it.
        half: in half precision.

    Attributes:
        failure: torch's words where it could not be run in half precision, else ``""``.
        buffers: written buffers after the last call, in float32, by qualified name.
    """

    def __init__(self, original: Original, *, half: bool = False) -> None:
        self._half = half
        self._module = original.private_module(half=half)
        self.buffers: Mapping[str, Tensor] = original.buffers
        self.failure = ""

    def call(self, step: Original) -> list[Tensor] | None:
        """The tensor outputs on the inputs of ``step``; ``None`` where half precision fails."""
        step = replace(step, buffers=self.buffers)
        if not self._half:
            self.buffers, outputs = step.results()
            return step.called_module(self._module, outputs)
        if self.failure:
            return None
        try:
            if self._module is not None:
                return step.module_outputs(self._module, half=True)
            self.buffers, outputs = step.results(half=True)
        except HALF_ERRORS as error:
            self.failure = first_line(error)
            return None
        return outputs
