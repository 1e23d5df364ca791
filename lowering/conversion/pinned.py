"""A float16 conversion in which chosen operators stay in float32."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from coremltools.converters.mil.mil import Operation, Var, types
from coremltools.converters.mil.mil.passes.defs.quantization import FP16ComputePrecision

from lowering.conversion.tails import outermost, tail


class PinnedPrecision(FP16ComputePrecision):
    """Float16 but for pinned operators; inputs and outputs are float16 unless they are named.

    Operators go by the name that they have when coremltools casts, which the same program and
    options give again in each conversion.

    Args:
        pins: names of MIL operators that stay in float32; ``None`` for all of them.
        wide: names of inputs and outputs that are float32; ``None`` for all of them.
        judged: names of the operators that were asked about; later passes rename others or join
            them. One of these stays in float32 where it reads such numbers: a transpose between
            two pinned operators has to carry what float16 has no room for.

    Attributes:
        followed: the types of the operators that stay in float32 for that, by name.
        castable: of each operator that would be cast without pins, in program order, the
            parameters that would be; filled in by a conversion.
    """

    def __init__(
        self,
        pins: Collection[str] | None,
        wide: Collection[str] | None = (),
        judged: Collection[str] | None = None,
    ) -> None:
        super().__init__(op_selector=self._is_cast)
        self._judged = None if judged is None else frozenset(judged)
        self.followed: dict[str, str] = {}
        self._pins = None if pins is None else frozenset(pins)
        self._wide = None if wide is None else frozenset(wide)
        self._exact: Mapping[str, int] = {}
        self._tail: frozenset[str] | None = None
        self.castable: dict[str, frozenset[str]] = {}

    def keep_exact(self, outputs: Mapping[str, int]) -> None:
        """Outputs, by name with their places, that are float32 back to the last layers."""
        self._exact = outputs

    def float_type(self, name: str) -> type:
        """The element type of the input or output ``name``."""
        wide = self._wide is None or name in self._wide or name in self._exact
        chosen: type = types.fp32 if wide else types.fp16
        return chosen

    def _is_cast(self, op: Operation) -> bool:
        if self._tail is None:
            block = outermost(op.enclosing_block)
            self._tail = tail(block, [block.outputs[place] for place in self._exact.values()])
        if op.name in self._tail:
            return False
        cast = frozenset(name for name in op.inputs if self._casts(op, name))
        if cast or any(var.is_tensor_or_scalar_of(dtype="fp32") for var in op.outputs):
            self.castable[op.name] = cast
        if self._pins is None or op.name in self._pins:
            return False
        asked = self._judged is None or op.name in self._judged
        if not asked and cast and _reads_float32(op):
            self.followed[op.name] = op.op_type
            return False
        return True

    def _casts(self, op: Operation, name: str) -> bool:
        given = _vars(op.inputs[name])
        is_float = any(var.is_tensor_or_scalar_of(dtype="fp32") for var in given)
        return is_float and bool(self.should_cast_parameter(op, name))


def _reads_float32(op: Operation) -> bool:
    """Whether an operator reads numbers that no cast to float16 has gone before."""
    given = (var for item in op.inputs.values() for var in _vars(item))
    return any(
        var.val is None
        and var.is_tensor_or_scalar_of(dtype="fp32")
        and (var.op is None or var.op.op_type != "cast")
        for var in given
    )


def _vars(value: object) -> list[Var]:
    items = value if isinstance(value, list | tuple) else [value]
    return [item for item in items if isinstance(item, Var)]
