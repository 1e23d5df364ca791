"""Operators that multiply matrices under another name, as the products that they are.

``einsum`` is a product of two tensors, and ``scaled_dot_product_attention`` a product, a softmax
and a product: the time of a program does not depend on how the same work is spelled.
"""

from __future__ import annotations

import math

from lowering.planner.facts import OpFacts, TensorFacts
from lowering.planner.work import contraction

ATTENTION = "scaled_dot_product_attention"
# Operators that sum over products of two operands, or of an operand and a weight.
PRODUCTS = frozenset({"conv", "conv_transpose", "linear", "matmul", "einsum"})


def spelled_out(facts: OpFacts) -> tuple[OpFacts, ...]:
    """The operators that ``facts`` stands for: fused attention in its parts, others as they are.

    Attention of queries (..., Sq, D), keys (..., Sk, D) and values (..., Sk, Dv) is the product to
    scores (..., Sq, Sk), the mask's addition where there is one, softmax, and the product to
    (..., Sq, Dv).
    """
    if facts.op_type != ATTENTION or len(facts.inputs) < 3:
        return (facts,)
    query, key, value = facts.inputs[:3]
    if not all(len(tensor.shape) > 1 for tensor in (query, key, value)):
        return (facts,)
    scores = TensorFacts((*query.shape[:-1], key.shape[-2]), query.dtype)
    mask = facts.operand("attn_mask") or next(iter(facts.inputs[3:4]), None)
    masked = (
        (OpFacts("add", (scores, mask), (scores,), name=facts.name),) if mask is not None else ()
    )
    return (
        OpFacts("matmul", (query, key), (scores,), (), {"transpose_y": True}, facts.name),
        *masked,
        OpFacts("softmax", (scores,), (scores,), name=facts.name),
        OpFacts("matmul", (scores, value), facts.outputs, name=facts.name),
    )


def is_activation_product(facts: OpFacts) -> bool:
    """It multiplies two tensors that both exist only while the program runs."""
    if facts.op_type in ("conv", "conv_transpose", "linear"):
        return facts.weight is not None and not facts.weight.const
    return facts.op_type in PRODUCTS and len(facts.runtime) > 1


def product_flops(facts: OpFacts) -> float:
    """True operations of one of ``PRODUCTS``, two per multiply-add."""
    if facts.op_type == "einsum":
        return 2.0 * _einsum_multiplications(facts)
    if facts.op_type in ("matmul", "linear"):
        return 2.0 * facts.output.elements * contraction(facts)
    weight = facts.weight
    if weight is None:
        return 0.0
    if facts.op_type == "conv_transpose":
        return 2.0 * facts.inputs[0].elements * math.prod(weight.shape[1:])
    return 2.0 * facts.output.elements * math.prod(weight.shape[1:])


def _einsum_multiplications(facts: OpFacts) -> float:
    """Multiplications of an einsum: the product of the sizes of all its labels.

    A row that does not tell its equation counts as a plain matrix product, (m, k) by (k, n).
    """
    operands = [tensor for tensor in facts.operands if tensor.name != "equation" and tensor.shape]
    terms = str(facts.attributes.get("equation", "")).partition("->")[0].split(",")
    if len(terms) == len(operands) and all(
        len(term.strip()) == len(tensor.shape) for term, tensor in zip(terms, operands, strict=True)
    ):
        sizes = {
            label: max(size, 1)
            for term, tensor in zip(terms, operands, strict=True)
            for label, size in zip(term.strip(), tensor.shape, strict=True)
        }
        return float(math.prod(sizes.values()))
    elements = [tensor.elements for tensor in (*operands[:2], facts.output)]
    return math.sqrt(math.prod(elements))
