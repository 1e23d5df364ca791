"""The form in which a root-mean-square norm is computed: safe in float16, one way or another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import fx

from frontend import fp16
from frontend.ops import layer_norm, rms_norm
from frontend.schema import arguments
from passes.base import Choice, Forms, Pass
from passes.errors import PassError
from passes.patterns.nodes import aten, shape
from passes.rewriter import Rewriter

Form = Literal["scaled", "layer_norm", "native"]


@dataclass(frozen=True)
class RmsNormForm(Pass):
    """Chooses how ``ane.rms_norm`` is computed.

    The textbook form squares activations: above 256 the square overflows float16, and the
    result is zero. Language models do have residuals of that size. The forms:

    ``scaled`` (default) divides by ``m = max(max|x|, sqrt(eps))`` first, which cancels:
    ``x * rsqrt(mean(x²) + eps) = (x/m) * rsqrt(mean((x/m)²) + (sqrt(eps)/m)²)``. Everything it
    computes lies in [-1, 1], apart from the sum of n squares, at most n, and the root, at most
    ``sqrt(n)``. So it is safe for any finite input and any accumulator that holds n; it needs
    no assumption about the hardware. Rows of zeros give zeros.

    ``layer_norm`` normalises ``[x, -x]``, whose mean is zero and whose variance is ``mean(x²)``,
    and keeps the first half: fewer operators, and precise, if the layer norm of the hardware
    accumulates beyond float16 (*assumed*; ANEMLL and 0seba's Qwen ports rely on it; smpanaro's
    notes report overflows on macOS 13). The textbook form took 11 to 18% less time than it on
    one M4 Max (*documented*: CoreML-LLM's RMSNorm follow-up).

    ``native`` leaves ``ane.rms_norm`` whole for its MIL composite in ``lowering``.

    Largest error relative to the largest result, n = 2048, eps 1e-6, operators rounding to
    float16 once each (*measured* by tests/passes/test_rms_norm_form.py):

    ============ ======= ======= ======= ======= =======
    |x| about     1e-3    1       300     3e3     1.5e4
    ============ ======= ======= ======= ======= =======
    textbook     8e-3    7e-4    1       1       1
    scaled       1.2e-3  7e-4    7e-4    8e-4    7e-4
    layer_norm   4e-3    3e-4    3e-4    3e-4    5e-4
    ============ ======= ======= ======= ======= =======

    Attributes:
        form: see above.
        prescale: for ``layer_norm`` and ``native``: x is multiplied by this first and eps by
            its square, which leaves the result as it is; a power of two is exact. For hardware
            whose norms overflow inside.

    Bound: each norm in float32 within rtol 1e-5 / atol 1e-6; ``scaled`` rounds once more than
    the textbook form.
    """

    name: ClassVar[str] = "rms_norm_form"
    by_site: ClassVar[bool] = True
    chooses_form: ClassVar[bool] = True
    runs_after: ClassVar[Mapping[str, str]] = {
        "fuse_rms_norm": "norms are recognised before their form is chosen",
    }
    forms: ClassVar[Forms] = Forms(
        "rms_norm",
        {name: Choice({"form": name}) for name in ("scaled", "layer_norm", "native")},
        sites=(rms_norm,),
    )
    form: Form = "scaled"
    prescale: float = 1.0

    def __post_init__(self) -> None:
        if self.form not in _FORMS and self.form != "native":
            raise PassError(
                "rms_norm_form has no such form",
                expected="scaled, layer_norm or native",
                found=repr(self.form),
            )
        if not self.prescale > 0:
            raise PassError(
                "rms_norm_form cannot scale by this",
                expected="a number above zero",
                found=repr(self.prescale),
            )

    def apply(self, rw: Rewriter) -> None:
        """Rewrites every ``ane.rms_norm``."""
        for node in rw.find(rms_norm):
            scale = 1.0 if self.form == "scaled" else self.prescale
            if self.form == "native" and scale == 1.0:
                continue
            x, axes, weight, eps = arguments(node).values()
            if self.form == "layer_norm" and not isinstance(shape(x)[axes[-1]], int):
                rw.decline(node, "its normalised axis has a dynamic size, and no middle to cut at")
                continue
            with rw.at(node):
                if scale != 1.0:
                    x, eps = rw.emit(aten.mul.Tensor, x, scale), eps * scale * scale
                if self.form == "native":
                    rw.replace(node, rw.emit(rms_norm, x, axes, weight, eps))
                    continue
                new = _FORMS[self.form](rw, x, axes, eps)
                if weight is not None:
                    new = rw.emit(aten.mul.Tensor, new, _beside(rw, weight, x, axes))
                rw.replace(node, new)


def _scaled(rw: Rewriter, x: fx.Node, axes: list[int], eps: float) -> fx.Node:
    root = math.sqrt(eps)
    largest = rw.emit(aten.amax.default, rw.emit(aten.abs.default, x), axes, True)
    # Dividing by anything smaller is undefined where subnormal numbers count as zero.
    largest = rw.emit(aten.clamp.default, largest, max(root, fp16.NORMAL))
    small = rw.emit(aten.div.Tensor, x, largest)
    power = rw.emit(aten.mean.dim, rw.emit(aten.mul.Tensor, small, small), axes, True)
    floor = rw.emit(aten.div.Tensor, rw.constant("root_of_eps", torch.tensor(root)), largest)
    floor = rw.emit(aten.mul.Tensor, floor, floor)
    inverse = rw.emit(aten.rsqrt.default, rw.emit(aten.add.Tensor, power, floor))
    return rw.emit(aten.mul.Tensor, small, inverse)


def _mirrored(rw: Rewriter, x: fx.Node, axes: list[int], eps: float) -> fx.Node:
    along = axes[-1]
    both = rw.emit(aten.cat.default, [x, rw.emit(aten.neg.default, x)], along)
    normed = rw.emit(layer_norm, both, axes, None, None, eps)
    return rw.emit(aten.slice.Tensor, normed, along, 0, shape(x)[along])


_FORMS: Mapping[str, Callable[[Rewriter, fx.Node, list[int], float], fx.Node]] = {
    "scaled": _scaled,
    "layer_norm": _mirrored,
}


def _beside(rw: Rewriter, weight: fx.Node, x: fx.Node, axes: list[int]) -> fx.Node:
    """``weight`` (the sizes of ``axes``) so that it broadcasts against ``x``."""
    sizes: list[Any] = [
        shape(x)[axis] if axis in axes else 1 for axis in range(axes[0], len(shape(x)))
    ]
    return weight if sizes == list(shape(weight)) else rw.emit(aten.reshape.default, weight, sizes)
