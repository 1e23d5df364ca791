"""Reads an einsum of data with a constant as a linear map over axes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EinsumLinear:
    """``out[free..., made...] = sum over summed of x[free..., summed...] * w[made..., summed...]``.

    Attributes:
        summed: letters that are summed over.
        made: letters that the weight adds.
        x_order: the permutation of x to (free, summed).
        weight_order: the permutation of the weight to (made, summed).
        out_order: the permutation of (free, made) to the result.
    """

    summed: str
    made: str
    x_order: list[int]
    weight_order: list[int]
    out_order: list[int]


def read_einsum(equation: str, ranks: tuple[int, int], weight_place: int) -> EinsumLinear | str:
    """The linear map of an equation of two operands, or a sentence why it is none.

    Args:
        equation: as for ``torch.einsum``; ellipses are allowed.
        ranks: ranks of the two operands.
        weight_place: which of them is the constant.
    """
    given, arrow, out = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    free_letters = [c for c in map(chr, range(0x4E00, 0x4E00 + 64)) if c not in equation]
    widths = [rank - len(t.replace("...", "")) for t, rank in zip(terms, ranks, strict=True)]
    longest = "".join(free_letters[: max(w for t, w in zip(terms, widths, strict=True))])
    terms = [
        t.replace("...", longest[len(longest) - w :]) for t, w in zip(terms, widths, strict=True)
    ]
    if arrow:
        out = out.replace("...", longest)
    else:
        letters = "".join(terms)
        out = longest + "".join(
            sorted(c for c in set(letters) - set(longest) if letters.count(c) == 1)
        )
    weight, x = terms[weight_place], terms[1 - weight_place]
    if any(len(set(term)) != len(term) for term in (x, weight, out)):
        return "its einsum takes a diagonal, which is no linear map"
    shared = [c for c in weight if c in x]
    batch = [c for c in shared if c in out]
    if batch:
        return "its einsum gives each entry of an axis a matrix of its own, which is no linear"
    summed = "".join(c for c in x if c in shared)
    if not summed:
        return "its einsum sums over no axis that the constant has, which is no linear map"
    if any(c not in out and c not in shared for c in x + weight):
        return "its einsum sums over an axis of one operand alone"
    free = "".join(c for c in x if c in out)
    made = "".join(c for c in out if c in weight)
    natural = free + made
    return EinsumLinear(
        summed=summed,
        made=made,
        x_order=[x.index(c) for c in free + summed],
        weight_order=[weight.index(c) for c in made + summed],
        out_order=[natural.index(c) for c in out],
    )
