"""Lowerings of torch operators that coremltools 9.0 lacks or gets wrong."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lowering.builder import Lowering
from lowering.torch_ops import creation, logical, structural

# One table per file; an operator stands in exactly one of them.
TABLES = (creation.TABLE, logical.TABLE, structural.TABLE)

TORCH_OPS: Mapping[Any, Lowering] = MappingProxyType(
    {op: lower for table in TABLES for op, lower in table.items()}
)
