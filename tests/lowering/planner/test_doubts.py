"""What is reported against an operator or a program: one that draws it and one that does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from coremltools import target as ct_target
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

from lowering.checking.explain import explain
from lowering.package.source_table import SourceTable
from lowering.planner import OpFacts, TensorFacts, capability
from lowering.planner.doubts import doubts_of, reasons
from lowering.planner.mil import ProgramOp, ReadProgram, read_program
from lowering.planner.placement import plan

X = (1, 8, 16, 16)


def _op(op_type, output, *inputs, name="op", weight=None, **attributes):
    tensors = tuple(
        entry if isinstance(entry, TensorFacts) else TensorFacts(entry, "fp16") for entry in inputs
    )
    constants = (TensorFacts(weight, "fp16", "weight", True),) if weight else ()
    outputs = (output if isinstance(output, TensorFacts) else TensorFacts(output, "fp16"),)
    return OpFacts(op_type, tensors, outputs, constants, attributes, name)


def _program(*facts, weight_bytes=0, chained=True):
    ops = tuple(
        ProgramOp(entry, (f"v{at}",) if chained else ("v0",), (f"v{at + 1}",))
        for at, entry in enumerate(facts)
    )
    program = ReadProgram(ops, ("v0",), (f"v{len(ops)}",), SourceTable({}), "test")
    return replace(program, weight_bytes=weight_bytes)


def _scores(queries, keys, width):
    query, key = (1, 3, queries, width), (1, 3, keys, width)
    return _op("matmul", (1, 3, queries, keys), query, key, transpose_y=True)


def _conv(kernel=(3, 3), **attributes):
    return _op("conv", X, X, weight=(8, 8, *kernel), **attributes)


_WIDE, _NARROW = 256, 128
# rule: (what draws it, what does not)
OPERATORS = {
    "attn.scores_2e20": (
        _scores(1024, 1024, _WIDE),
        [_scores(1023, 1023, _WIDE), _scores(1024, 1024, _NARROW)],
    ),
    "attn.length_501_512": (
        _scores(512, 512, _WIDE),
        [_scores(513, 513, _WIDE), _scores(512, 512, _NARROW)],
    ),
    "attn.length_2048": (
        _scores(2048, 2048, _WIDE),
        [_scores(2047, 2047, _WIDE), _scores(2048, 2048, _NARROW)],
    ),
    "rank5.repeat_kv": (
        _op("tile", (1, 2, 4, 16, 8), (1, 2, 1, 16, 8)),
        [_op("tile", (1, 4, 16, 8), (1, 1, 16, 8)), _op("tile", (2, 2, 2, 4, 4), (1, 1, 1, 4, 4))],
    ),
    "conv.kernel_16": (_conv((16, 16)), [_conv((16, 15)), _conv((31, 1))]),
    "conv.dilation_factors": (
        _conv(dilations=[5, 5]),
        [_conv(dilations=[2, 2]), _conv(dilations=[6, 4]), _conv()],
    ),
    "conv.stride_factors": (
        _conv(strides=[7, 5]),
        [_conv(strides=[2, 4]), _conv(strides=[12, 12])],
    ),
    "pool.stride_factors": (
        _op("max_pool", X, X, strides=[3, 3]),
        [_op("max_pool", X, X, strides=[2, 2]), _op("max_pool", X, X, strides=[4, 1])],
    ),
    "op.logical": (_op("logical_xor", X, X, X), [_op("logical_and", X, X, X)]),
    "op.slice_update": (_op("slice_update", X, X, X), [_op("slice_by_size", X, X)]),
    "state.runtime_bounds": (
        _op("slice_update", X, X, X, TensorFacts((4,), "int32", "begin")),
        [_op("slice_update", X, X, X, TensorFacts((4,), "int32", "begin", True))],
    ),
    "state.integer": (
        _op("read_state", TensorFacts(X, "int32"), X),
        [_op("read_state", X, X), _op("slice_by_size", TensorFacts(X, "int32"), X)],
    ),
    "op.reshape_like": (_op("reshape_like", X, X, X), [_op("reshape", X, X)]),
    "op.crop_resize": (_op("crop_resize", X, X), [_op("resize_bilinear", X, X)]),
    "op.gru_reset_after": (
        _op("gru", X, X, reset_after=True),
        [_op("gru", X, X), _op("gru", X, X, reset_after=False), _op("lstm", X, X)],
    ),
    "cast.int8": (_op("cast", TensorFacts(X, "int8"), X), [_op("cast", X, X)]),
    "gather.zeros": (_op("gather_nd", (-1, 8), X), [_op("gather_nd", (4, 8), X)]),
    "quant.int8_palettes": (_conv(integer_palette=True), [_conv()]),
    "quant.palette_axes": (_conv(palette_axes=2), [_conv()]),
}  # fmt: skip

_HALF = (1, 4, 16, 16)
_INTO = {1: ("v0", "v1")}  # the second operator reads the state, and the first one's result


def _written(*facts, reads=None):
    """A state is read, goes through operators of which each reads the one before, is written."""
    ops = [ProgramOp(_op("read_state", X, X), ("state",), ("v0",))]
    for at, entry in enumerate(facts):
        own = (reads or {}).get(at, (f"v{at}",))
        ops.append(ProgramOp(entry, own, (f"v{at + 1}",)))
    last = f"v{len(facts)}"
    ops.append(ProgramOp(_op("write_state", X, X), (last, "state"), ()))
    program = ReadProgram(tuple(ops), ("state", "x"), (last,), SourceTable({}), "test")
    return replace(program, weight_bytes=0)


_STATES = [_op("read_state", X, X) for _ in range(3)]
_GIB = 1 << 30
_CHAIN = [_conv()] * 387
# rule: (platform, what draws it, what does not)
PROGRAMS = {
    "prog.size": ("H16G", _program(weight_bytes=2 * _GIB + 1), _program(weight_bytes=2 * _GIB)),
    "prog.size_os27": ("H16G", _program(weight_bytes=_GIB + 1), _program(weight_bytes=_GIB)),
    "state.count": ("H17G", _program(*_STATES), _program(*_STATES[:2])),
    "state.scatter": (
        "H16G",
        _written(_op("scatter_nd", X, X, X)),
        # What is put into a part of the state may be made in any way.
        _written(_op("scatter_nd", _HALF, _HALF), _op("slice_update", X, X), reads=_INTO),
    ),
    "state.transpose": (
        "H16G",
        _written(_op("transpose", X, X), _op("slice_update", X, X), _op("transpose", X, X)),
        _written(_op("transpose", _HALF, _HALF), _op("slice_update", X, X), reads=_INTO),
    ),
    "state.shift": (
        "H16G",
        _written(_op("slice_by_index", _HALF, X), _op("concat", X, _HALF), reads={1: ("v1", "x")}),
        _written(_op("slice_by_index", _HALF, X), _op("slice_update", X, X), reads=_INTO),
    ),
    "prog.depth_h18": ("H18G", _program(*_CHAIN), _program(*_CHAIN, chained=False)),
    "compile.einsums_h18": (
        "H18G",
        _program(*[_op("einsum", X, X, X)] * 1001, chained=False),
        _program(*[_op("einsum", X, X, X)] * 1000, chained=False),
    ),
}  # fmt: skip


def _rules(program, platform="H16G"):
    return {doubt.reason.rule for doubt in doubts_of(program, platform)}


@pytest.mark.parametrize("rule", OPERATORS)
def test_an_operator_draws_its_doubt(rule):
    drawn, left = OPERATORS[rule]
    assert rule in _rules(_program(drawn))
    for facts in left:
        assert rule not in _rules(_program(facts))


@pytest.mark.parametrize("rule", PROGRAMS)
def test_a_program_draws_its_doubt(rule):
    platform, drawn, left = PROGRAMS[rule]
    assert rule in _rules(drawn, platform)
    assert rule not in _rules(left, platform)


@pytest.mark.parametrize("rule", ["prog.depth_h18", "compile.einsums_h18"])
def test_what_an_m6_does_is_said_of_the_m6_alone(rule):
    assert rule not in _rules(PROGRAMS[rule][1], "H16G")


def test_every_doubt_has_its_pair_and_is_explained():
    assert {reason.rule for reason in reasons()} == OPERATORS.keys() | PROGRAMS.keys()
    for reason in reasons():
        assert 0 < reason.confidence < 1
        assert reason.evidence in explain(reason.rule).rule.evidence


@pytest.mark.parametrize("rule", ["op.logical", "conv.kernel_16", "cast.int8"])
def test_a_doubt_refuses_nothing(rule):
    assert capability(OPERATORS[rule][0]).ane


def test_a_plan_tells_doubts_beside_what_it_counts():
    @mb.program(
        input_specs=[mb.TensorSpec((1, 8, 32, 32), types.fp16)], opset_version=ct_target.iOS17
    )
    def program(x):
        weight = np.ones((8, 8, 3, 3), np.float16)
        return mb.conv(x=mb.conv(x=x, weight=weight, dilations=[5, 5]), weight=weight)

    made = plan(program)
    (doubt,) = made.doubts
    assert doubt.reason.rule == "conv.dilation_factors"
    assert len(doubt.ops) == 1
    assert str(doubt).startswith("slow (60% sure): ")
    assert made.to_json()["doubts"][0]["verdict"] == "slow"
    assert plan(program, compute_units="CPU_ONLY").doubts == ()


def test_palettes_of_integers_are_read_from_a_program():
    indices = np.zeros((64, 64, 1, 1), types.np_uint4_dtype)

    def doubts(entry_dtype, groups):
        palettes = np.ones((*groups, 1, 1, 16, 1), entry_dtype)

        @mb.program(
            input_specs=[mb.TensorSpec((1, 64, 8, 8), types.fp16)], opset_version=ct_target.iOS18
        )
        def packed(x):
            weight = mb.constexpr_lut_to_dense(indices=indices, lut=palettes)
            weight = weight if entry_dtype == np.float16 else _scaled(weight)
            return mb.conv(x=x, weight=weight)

        return _rules(read_program(packed))

    def _scaled(weight):
        scale = np.ones((64, 1, 1, 1), np.float16)
        return mb.constexpr_blockwise_shift_scale(data=weight, scale=scale)

    assert doubts(np.float16, (4, 1)) & OPERATORS.keys() == set()
    assert "quant.palette_axes" in doubts(np.float16, (4, 4))
    assert "quant.int8_palettes" in doubts(np.int8, (1, 1))
