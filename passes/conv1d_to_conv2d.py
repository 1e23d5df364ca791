"""1-D convolutions become 2-D convolutions over an image of one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from frontend.schema import arguments
from passes.base import Pass
from passes.patterns.nodes import aten, shape
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class Conv1dToConv2d(Pass):
    """``convolution`` on (B, C, L) becomes ``convolution`` on (B, C, 1, L).

    Kernels (O, I, k) become (O, I, 1, k); stride, padding and dilation get a 1 or 0 for the row.
    Transposed and grouped convolutions too. The ANE works on rank 4 (*documented*: Apple,
    "Deploying Transformers on the Apple Neural Engine").

    Exact up to the order of sums: float32 within rtol 1e-5 / atol 1e-6.
    """

    name: ClassVar[str] = "conv1d_to_conv2d"
    by_site: ClassVar[bool] = True
    chooses_form: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Rewrites every convolution of rank 3; declines rank 5."""
        for node in rw.find(aten.convolution.default):
            x, weight, bias, *options = arguments(node).values()
            if len(shape(x)) == 5:
                rw.decline(node, "it is a 3-D convolution, and the ANE has none")
            if len(shape(x)) != 3:
                continue
            with rw.at(node):
                rw.replace(node, _conv2d(rw, x, weight, bias, options))


def _conv2d(
    rw: Rewriter, x: fx.Node, weight: fx.Node, bias: fx.Node | None, options: Sequence[Any]
) -> fx.Node:
    stride, padding, dilation, transposed, output_padding, groups = options
    image = rw.emit(aten.unsqueeze.default, x, 2)
    kernel = rw.emit(aten.unsqueeze.default, weight, 2)
    convolved = rw.emit(
        aten.convolution.default,
        *(image, kernel, bias, [1, *stride], [0, *padding], [1, *dilation]),
        *(transposed, [0, *output_padding], groups),
    )
    return rw.emit(aten.squeeze.dims, convolved, [2])
