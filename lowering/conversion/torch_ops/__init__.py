"""Lowerings of torch operators that coremltools 9.0 lacks or gets wrong.

A lowering may return ``NotImplemented``: coremltools' own one is right for those arguments.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lowering.conversion.builder import Lowering
from lowering.conversion.torch_ops import (
    activations,
    arithmetic,
    bits,
    bounds,
    creation,
    division,
    draws,
    dynamic,
    dynamic_spatial,
    embedding_bag,
    hyperbolic,
    indexing,
    inverses,
    linalg,
    logarithms,
    logical,
    ordering,
    pooling,
    products,
    promotion,
    quantiles,
    recurrent,
    reductions,
    resizing,
    scattered_slices,
    size_numbers,
    sorting,
    spatial,
    structural,
    triangular,
)

# One table per file; an operator stands in exactly one of them.
TABLES: tuple[Mapping[Any, Any], ...] = (
    activations.TABLE,
    arithmetic.TABLE,
    bits.TABLE,
    bounds.TABLE,
    creation.TABLE,
    division.TABLE,
    draws.TABLE,
    dynamic.TABLE,
    dynamic_spatial.TABLE,
    embedding_bag.TABLE,
    hyperbolic.TABLE,
    indexing.TABLE,
    inverses.TABLE,
    linalg.TABLE,
    logarithms.TABLE,
    logical.TABLE,
    ordering.TABLE,
    pooling.TABLE,
    products.TABLE,
    promotion.TABLE,
    quantiles.TABLE,
    recurrent.TABLE,
    reductions.TABLE,
    resizing.TABLE,
    scattered_slices.TABLE,
    size_numbers.TABLE,
    sorting.TABLE,
    spatial.TABLE,
    structural.TABLE,
    triangular.TABLE,
)

TORCH_OPS: Mapping[Any, Lowering] = MappingProxyType(
    {op: lower for table in TABLES for op, lower in table.items()}
)
