"""Linear layers become 1x1 convolutions over an image of one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import fx

from frontend.schema import arguments
from passes.base import Choice, Forms, Pass
from passes.patterns.nodes import aten, input_of, is_call, is_static, shape
from passes.patterns.rows import rows_are_tokens, with_tokens_in_front
from passes.rewriter import Rewriter


def _size(node: fx.Node) -> str:
    outputs, inputs = shape(input_of(node, 1))
    return f"{inputs} to {outputs}"


@dataclass(frozen=True)
class LinearToConv1x1(Pass):
    """``linear(x, w, b)`` becomes ``conv2d(image(x), w[:, :, None, None], b)``.

    Before: ``linear (B, S, I) -> (B, S, O)``. After: ``permute, unsqueeze -> (B, I, 1, S)``,
    ``convolution -> (B, O, 1, S)``, ``squeeze, permute -> (B, S, O)``; ``assign_layout`` then
    cancels the conversions between neighbours. Inputs of rank 2 (B, I) become (B, I, 1, 1), or
    (1, I, 1, N) where the rows are flattened tokens; those with tokens in front of the batch,
    (S, B, I), become (B, I, 1, S); inputs of rank 4 (B, H, W, I) become
    (B, I, H, W); those of rank 1 and of 5 or more go through one of these.

    The dispatcher prices a convolution 5.3 times lower per FLOP than a linear on M4
    (*measured*, compiler estimate; 751K dispatcher study, macOS 27).

    Attributes:
        tied: what to do with a weight that an embedding uses as well. ``keep`` leaves the
            linear, since the package would store the matrix once per shape; ``convert``
            rewrites it all the same.

    Bound: float32 outputs within rtol 1e-5 / atol 1e-6 of the linear's.
    """

    name: ClassVar[str] = "linear_to_conv1x1"
    by_site: ClassVar[bool] = True
    chooses_form: ClassVar[bool] = True
    runs_after: ClassVar[Mapping[str, str]] = {
        "canonical_linear": "it makes the linears that are converted there",
        "keep_images": "a linear on an image becomes a convolution of that image",
    }
    forms: ClassVar[Forms] = Forms(
        "linear",
        {
            "convolved": Choice({}),
            "tied_convolved": Choice({"tied": "convert"}),
            "kept": Choice(None),
        },
        sites=(aten.linear.default,),
        size=_size,
    )
    tied: Literal["keep", "convert"] = "keep"

    def apply(self, rw: Rewriter) -> None:
        """Rewrites every linear with a constant weight."""
        linears = rw.find(aten.linear.default)
        known: dict[fx.Node, bool] = {}
        # Asked before the first rewrite, while rows can still be followed.
        in_front = with_tokens_in_front(linears)
        tokens = {n: n in in_front or rows_are_tokens(input_of(n), known) for n in linears}
        for node in linears:
            x, weight, bias = arguments(node).values()
            reason = self._refusal(rw, x, weight, bias)
            if reason:
                rw.decline(node, reason)
                continue
            with rw.at(node):
                rw.replace(node, _conv(rw, x, weight, bias, tokens[node]))

    def _refusal(
        self, rw: Rewriter, x: fx.Node, weight: fx.Node, bias: fx.Node | None
    ) -> str | None:
        if len(shape(weight)) == 1:
            return "its weight is a vector, which sums to one number per token and no channel"
        if len(shape(x)) > 4 and not is_static(x):
            return "its input has more than four axes, one of them of dynamic size"
        if not rw.is_constant(weight):
            return "its weight is computed from an input, and a convolution wants a constant"
        if isinstance(bias, fx.Node) and not rw.is_constant(bias):
            return "its bias is computed from an input, and a convolution wants a constant"
        if self.tied == "keep" and any(is_call(u, aten.embedding.default) for u in weight.users):
            return (
                "its weight is tied to an embedding; as a convolution the package would store "
                "it twice (tied='convert' does it all the same)"
            )
        return None


def _conv(rw: Rewriter, x: fx.Node, weight: fx.Node, bias: fx.Node | None, tokens: bool) -> fx.Node:
    outputs, inputs = shape(weight)
    kernel = rw.emit(aten.reshape.default, weight, [outputs, inputs, 1, 1])
    rank = len(shape(x))

    def conv(image: fx.Node) -> fx.Node:
        return rw.emit(
            aten.convolution.default,
            *(image, kernel, bias, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        )

    if rank == 1:
        image = _unsqueeze(rw, x, 0, 2, 3)
        return rw.emit(aten.squeeze.dims, conv(image), [0, 2, 3])
    if rank == 3 and tokens:
        image = _unsqueeze(rw, rw.emit(aten.permute.default, x, [1, 2, 0]), 2)
        row = rw.emit(aten.squeeze.dims, conv(image), [2])
        return rw.emit(aten.permute.default, row, [2, 0, 1])
    if tokens:
        x = rw.emit(aten.unsqueeze.default, x, 0)
        return rw.emit(aten.squeeze.dims, _conv(rw, x, weight, bias, False), [0])
    if rank == 2:
        image = _unsqueeze(rw, x, 2, 3)
        return rw.emit(aten.squeeze.dims, conv(image), [2, 3])
    if rank == 3:
        image = _unsqueeze(rw, rw.emit(aten.permute.default, x, [0, 2, 1]), 2)
        row = rw.emit(aten.squeeze.dims, conv(image), [2])
        return rw.emit(aten.permute.default, row, [0, 2, 1])
    if rank == 4:
        image = rw.emit(aten.permute.default, x, [0, 3, 1, 2])
        return rw.emit(aten.permute.default, conv(image), [0, 2, 3, 1])
    # The axes between batch and channels are one sequence to a linear.
    sizes = list(shape(x))
    row = rw.emit(aten.reshape.default, x, [sizes[0], -1, inputs])
    image = _unsqueeze(rw, rw.emit(aten.permute.default, row, [0, 2, 1]), 2)
    row = rw.emit(aten.squeeze.dims, conv(image), [2])
    flat = rw.emit(aten.permute.default, row, [0, 2, 1])
    return rw.emit(aten.reshape.default, flat, [*sizes[:-1], outputs])


def _unsqueeze(rw: Rewriter, x: fx.Node, *axes: int) -> fx.Node:
    for axis in axes:
        x = rw.emit(aten.unsqueeze.default, x, axis)
    return x
