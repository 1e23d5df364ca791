"""Complex numbers become pairs of real ones; Fourier transforms become matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from passes.base import Pass
from passes.complex_to_real.rules import RULES, Parts
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class ComplexToReal(Pass):
    """Rewrites every complex value that leads to a real one.

    Core ML has no complex numbers. A complex value becomes two real ones: spectra
    (``torch.stft``, ``torch.fft``), rotary embeddings by complex factors, spectral convolutions.
    A Fourier transform becomes a product with a constant matrix of cosines and sines, up to
    4,096 points.

    Bound: float32 outputs within rtol 1e-4 / atol 1e-5 of the original, relative to the largest
    value: a sum of N products instead of log2(N) stages of butterflies.
    """

    name: ClassVar[str] = "complex_to_real"

    def apply(self, rw: Rewriter) -> None:
        """One walk in program order; what has no real form is declined where it first occurs."""
        parts = Parts(rw)
        refused: set[fx.Node] = set()
        for node in [*rw.placeholders(), *rw.nodes()]:
            if _is_complex(node):
                reason = _split(parts, node, refused)
                if reason is not None:
                    refused.add(node)
                    if reason:
                        rw.decline(node, reason)
            elif any(argument in parts.pairs for argument in node.all_input_nodes):
                _leave(parts, node, refused)
        for result in rw.output.all_input_nodes:
            if result in parts.pairs:
                rw.decline(result, "it is a result, and a package gives real numbers only")


def _split(parts: Parts, node: fx.Node, refused: set[fx.Node]) -> str | None:
    """Finds the parts of a complex value; why not, ``""`` where an argument has none either."""
    rw = parts.rw
    if any(argument in refused for argument in node.all_input_nodes):
        return ""
    if isinstance(node.meta["val"], torch.Tensor) and rw.is_constant(node):
        value = torch.view_as_real(rw.value(node).resolve_conj())
        name = rw.constant_name(node) if node.op == "placeholder" else node.name
        parts.pairs[node] = (
            rw.constant(f"{name}__real", value[..., 0].contiguous()),
            rw.constant(f"{name}__imag", value[..., 1].contiguous()),
        )
        return None
    if node.op == "placeholder":
        return "it is an input, and a package takes real numbers only"
    rule = RULES.get(node.target)
    if rule is None:
        return "no rule writes it with real numbers"
    with rw.at(node):
        found = rule(parts, node)
    if isinstance(found, str):
        return found
    assert isinstance(found, tuple)
    parts.pairs[node] = found
    return None


def _leave(parts: Parts, node: fx.Node, refused: set[fx.Node]) -> None:
    """Rewrites an operator that makes a real value of complex ones."""
    if any(argument in refused for argument in node.all_input_nodes):
        return
    rule = RULES.get(node.target)
    if rule is None:
        parts.rw.decline(node, "no rule writes it with real numbers")
        return
    with parts.rw.at(node):
        found = rule(parts, node)
        if isinstance(found, str):
            parts.rw.decline(node, found)
        else:
            assert isinstance(found, fx.Node)
            parts.rw.replace(node, found)


def _is_complex(node: fx.Node) -> bool:
    value: Any = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(part, torch.Tensor) and part.is_complex() for part in values)
