"""Composites: bind a torch operator to MIL, with samples that prove the binding.

A composite is an operator that stays whole through capture and passes, because it is a
``torch.library`` custom operator, and becomes whatever MIL you write::

    @torch.library.custom_op("mylib::selu_like", mutates_args=())
    def selu_like_op(x: torch.Tensor, alpha: float = 1.5) -> torch.Tensor:
        return torch.where(x > 0, x, alpha * (torch.exp(x) - 1))

    selu_like_op.register_fake(lambda x, alpha=1.5: torch.empty_like(x))

    @composite(torch.ops.mylib.selu_like.default, samples=[(torch.randn(1, 8, 1, 16),)])
    def selu_like(mb, x, alpha):
        return mb.elu(x=x, alpha=alpha)

    check_composite(selu_like)
    convert(model, example_inputs, composites=(selu_like,))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lowering.conversion.builder import Lowering
from lowering.errors import CompositeError

Sample = tuple[Any, ...]


@dataclass(frozen=True)
class Composite:
    """A torch operator, how it is written in MIL, and inputs to try it on.

    Attributes:
        op: the operator, such as ``torch.ops.mylib.selu_like.default``.
        lower: ``lower(mb, *arguments, **keyword_only) -> Var`` (a tuple for several results).
            ``mb`` is coremltools' Builder. Arguments come in schema order with defaults filled
            in: tensors as MIL Vars, all else as Python values. ``mb.result`` is torch's fake
            result, for shapes and dtypes.
        samples: arguments of the operator, one tuple for each sample; a dictionary at its end
            holds keyword-only ones.
    """

    op: torch._ops.OpOverload
    lower: Lowering
    samples: tuple[Sample, ...]

    @property
    def name(self) -> str:
        """Name of the lowering function."""
        return self.lower.__name__


def composite(
    op: torch._ops.OpOverload, *, samples: Sequence[Sample]
) -> Callable[[Lowering], Composite]:
    """Bind ``op`` to the decorated function, which writes it in MIL.

    Args:
        op: an overload (``torch.ops.mylib.op.default``), custom or ``aten``.
        samples: at least one tuple of arguments, for ``check_composite``; see ``Composite``.

    Raises:
        CompositeError: ``op`` is not an overload, or there is no sample.
    """
    if not isinstance(op, torch._ops.OpOverload):
        raise CompositeError(
            "A composite binds one overload of an operator",
            expected="such as torch.ops.mylib.op.default",
            found=repr(op),
        )
    if not samples or not all(isinstance(sample, tuple) for sample in samples):
        raise CompositeError(
            "A composite needs samples, each a tuple of the operator's arguments",
            op=str(op),
            expected="samples=[(torch.randn(1, 8, 1, 16),)]",
            found=repr(samples)[:80],
        )

    def bind(lower: Lowering) -> Composite:
        return Composite(op, lower, tuple(samples))

    return bind
