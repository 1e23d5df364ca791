"""Casts a program to float16 without the casts that coremltools 9.0 adds and takes away again.

coremltools casts each operand of an operator to float16 and each result back to float32, so that
between two operators there are two casts, which a later pass finds and cancels: a sixth of the
seconds that converting DistilBERT with 24 narrow layers took (*measured*). Here an operator reads
the float16 result of the one before it; a result is cast back where something still reads float32.
"""

from __future__ import annotations

from collections.abc import Callable

from coremltools.converters.mil.mil import Block, Builder, Operation, Program, Var
from coremltools.converters.mil.mil.passes.defs.quantization import (
    AbstractQuantizationPass,
    add_fp16_cast,
)

from lowering.conversion.fast_queries import Replacement

_FULL, _HALF = "fp32", "fp16"


def direct_casts() -> list[Replacement]:
    """What to put in the place of coremltools' own, for one conversion."""
    return [(AbstractQuantizationPass, "apply", _apply)]


_apply_own: Callable[[AbstractQuantizationPass, Program], None] = AbstractQuantizationPass.apply


def _apply(self: AbstractQuantizationPass, prog: Program) -> None:
    if not _is_plain(self, prog):
        _apply_own(self, prog)
        return
    for function in prog.functions.values():
        with function:
            _Caster(self, function).run()


def _is_plain(step: AbstractQuantizationPass, prog: Program) -> bool:
    """Whether ``step`` casts all it can to float16, in a program without control flow.

    A selector of the user's may look at the casts, and inner blocks read results of outer ones.
    """
    return (
        isinstance(step, add_fp16_cast)
        and type(step).transform_op is add_fp16_cast.transform_op
        and step.op_selector is None
        and not step.skip_ops_by_type
        and not any(op.blocks for f in prog.functions.values() for op in f.operations)
    )


class _Caster:
    """Casts the operators of one block, in order."""

    def __init__(self, step: add_fp16_cast, block: Block) -> None:
        self._step = step
        self._block = block
        # What is float32, such as the results of replaced operators, and the same in float16.
        self._halves: dict[Var, Var] = {}
        self._casts: dict[Var, Var] = {}
        self._replaced: dict[Operation, None] = {}

    def run(self) -> None:
        """Cast what can be cast; what still reads float32 results gets them by a cast."""
        for op in list(self._block.operations):
            if self._step.is_valid_op(op):
                self._cast(op)
        for op in self._replaced:
            for result in op.outputs:
                half = self._halves.get(result)
                if half is not None and any(u not in self._replaced for u in result.child_ops):
                    self._cast_back(op, result, half)
        self._block.remove_ops(list(self._replaced))

    def _cast(self, op: Operation) -> None:
        given: dict[str, object] = {}
        is_cast = False
        for name, value in op.inputs.items():
            if self._step.should_cast_parameter(op, name):
                variables = value if isinstance(value, list | tuple) else [value]
                halves = [self._half(var, op) for var in variables]
                is_cast |= any(new is not old for new, old in zip(halves, variables, strict=True))
                given[name] = halves if isinstance(value, list | tuple) else halves[0]
        if not is_cast:
            return
        given |= {name: value for name, value in op.inputs.items() if name not in given}
        given |= {"name": f"{op.name}_cast_{_HALF}", "before_op": op}
        results = self._step._get_casted_outputs(op, given)
        if not isinstance(results, list | tuple):
            results = [results]
        self._replaced[op] = None
        for old, new in zip(op.outputs, results, strict=False):
            if not _is_full(old) or _is_full(new):
                self._replace(op, old, new)
            elif old.consuming_blocks or old.sym_val is not None:
                self._cast_back(op, old, new)
            else:
                self._halves[old] = new
                Block._copy_scope_info(old, new)

    def _half(self, var: Var, op: Operation) -> Var:
        """``var`` in float16 where it is float32."""
        if var in self._halves:
            return self._halves[var]
        if not _is_full(var):
            return var
        if var not in self._casts:
            name = f"{var.name}_to_{_HALF}"
            cast = self._casts[var] = Builder.cast(x=var, dtype=_HALF, name=name, before_op=op)
            self._step._check_underflow_to_zero(cast, var)
        return self._casts[var]

    def _cast_back(self, op: Operation, old: Var, new: Var) -> None:
        name = f"{new.name}_to_{_FULL}"
        full = Builder.cast(x=new, dtype=_FULL, name=name, before_op=op)
        if full.sym_val is None:
            self._halves[full] = new
        self._replace(op, old, full)

    def _replace(self, op: Operation, old: Var, new: Var) -> None:
        self._block.replace_uses_of_var_after_op(
            anchor_op=op, old_var=old, new_var=new, force_replace=True
        )


def _is_full(var: Var) -> bool:
    return bool(var.is_tensor_or_scalar_of(dtype=_FULL))
