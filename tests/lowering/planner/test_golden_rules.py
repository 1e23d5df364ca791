"""One program that passes and one that fails for each rule of capability_rules.json."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools import target as ct_target
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import get_new_symbol, types

from lowering.planner import OpFacts, TensorFacts, capability
from lowering.planner.capabilities import rules
from lowering.planner.placement import plan

FP16, INT32, FP32 = types.fp16, types.int32, types.fp32
X = (1, 8, 16, 16)


def _program(function, *inputs, opset=ct_target.iOS17):
    """A MIL program of ``function`` over inputs given as ``shape`` or ``(shape, dtype)``."""
    specs = [
        mb.TensorSpec(*entry) if isinstance(entry[0], tuple) else mb.TensorSpec(entry, FP16)
        for entry in inputs
    ]
    names = ["a", "b", "c"][: len(specs)]
    # The builder reads the parameters' names, so the function needs as many as there are inputs.
    body = {1: lambda a: function(a), 2: lambda a, b: function(a, b)}[len(names)]
    return mb.program(input_specs=specs, opset_version=opset)(body)


def _weight(*shape):
    return np.ones(shape, np.float16)


def _conv(x, *kernel):
    return mb.conv(x=x, weight=_weight(8, 8, *kernel), pad_type="same")


def _pool(op, x, *kernel):
    return op(x=x, kernel_sizes=kernel, strides=(1, 1), pad_type="same")


def _cond(flag, x):
    return mb.cond(pred=flag, _true_fn=lambda: mb.relu(x=x), _false_fn=lambda: mb.exp(x=x))


def _lstm(x):
    kwargs = {
        "weight_ih": _weight(16, 8),
        "weight_hh": _weight(16, 4),
        "initial_h": _weight(1, 4),
        "initial_c": _weight(1, 4),
    }
    return mb.lstm(x=x, **kwargs)[0]


def _scatter(x, y):
    return mb.scatter(data=x, indices=np.array([0], np.int32), updates=y, axis=0, mode="update")


def _noise():
    return mb.random_normal(shape=X, mean=np.float16(0), stddev=np.float16(1))


def _long(size):
    return (1, 1, 1, size)


def _stateful(width):
    """``state = state + x`` over a state of the given width."""
    specs = [mb.StateTensorSpec((4, width), FP16), mb.TensorSpec((4, width), FP16)]

    @mb.program(input_specs=specs, opset_version=ct_target.iOS18)
    def program(state, x):
        total = mb.add(x=mb.read_state(input=state), y=x)
        return mb.coreml_update_state(state=state, value=total)

    return program


# rule: (target, op looked at, good program, bad program)
GOLDEN = {
    "shape.symbolic": (
        "M4",
        "relu",
        lambda: _program(lambda x: mb.relu(x=x), (1, 8)),
        lambda: _program(lambda x: mb.relu(x=x), (1, get_new_symbol())),
    ),
    "shape.rank_gt5": (
        "M4",
        "relu",
        lambda: _program(lambda x: mb.relu(x=x), (1, 1, 2, 2, 2)),
        lambda: _program(lambda x: mb.relu(x=x), (1, 1, 1, 2, 2, 2)),
    ),
    "control_flow": (
        "M4",
        "cond",
        lambda: _program(
            lambda flag, x: mb.select(cond=flag, a=mb.relu(x=x), b=mb.exp(x=x)),
            ((1,), types.bool),
            X,
        ),
        lambda: _program(lambda flag, x: _cond(mb.squeeze(x=flag), x), ((1,), types.bool), X),
    ),
    "op.recurrent": (
        "M4",
        "lstm",
        lambda: _program(lambda x: mb.linear(x=x, weight=_weight(4, 8)), (5, 1, 8)),
        lambda: _program(_lstm, (5, 1, 8)),
    ),
    "op.maths": (
        "M4",
        "tan",
        lambda: _program(lambda x: mb.tanh(x=x), X),
        lambda: _program(lambda x: mb.tan(x=x), X),
    ),
    "op.cumsum": (
        "M4",
        "cumsum",
        lambda: _program(lambda x: mb.matmul(x=x, y=_weight(8, 8)), (4, 8)),
        lambda: _program(lambda x: mb.cumsum(x=x, axis=1), (4, 8)),
    ),
    "op.structural": (
        "M4",
        "band_part",
        lambda: _program(lambda x: mb.mul(x=x, y=np.tri(8, dtype=np.float16)), (8, 8)),
        lambda: _program(lambda x: mb.band_part(x=x, lower=0, upper=-1), (8, 8)),
    ),
    "op.scatter": (
        "M4",
        "scatter",
        lambda: _program(lambda x, y: mb.add(x=x, y=y), (4, 8), (1, 8)),
        lambda: _program(_scatter, (4, 8), (1, 8)),
    ),
    "op.random": (
        "M4",
        "random_normal",
        lambda: _program(lambda x: mb.add(x=x, y=x), X),
        lambda: _program(lambda x: mb.add(x=_noise(), y=x), X),
    ),
    "dtype.int32_output": (
        "M4",
        "reduce_argmax",
        lambda: _program(lambda x: mb.reduce_max(x=x, axes=[-1]), (1, 64)),
        lambda: _program(lambda x: mb.reduce_argmax(x=x, axis=-1), (1, 64)),
    ),
    "gather.index_dtype": (
        "M4",
        "gather",
        lambda: _program(lambda x: mb.gather(x=x, indices=np.array([0, 1]), axis=1), (1, 64)),
        lambda: _program(
            lambda x, i: mb.gather(x=x, indices=i, axis=0), (100, 64), ((1, 4), types.int16)
        ),
    ),
    "dtype.int32_tensor": (
        "M4",
        "mul",
        lambda: _program(lambda x: mb.mul(x=x, y=x), X),
        lambda: _program(lambda x: mb.mul(x=x, y=x), (X, INT32)),
    ),
    "dtype.fp32_compute": (
        "M4",
        "relu",
        lambda: _program(lambda x: mb.cast(x=x, dtype="fp16"), (X, FP32)),
        lambda: _program(lambda x: mb.relu(x=x), (X, FP32)),
    ),
    "shape.dim_limit": (
        "M4",
        "relu",
        lambda: _program(lambda x: mb.relu(x=x), _long(65536)),
        lambda: _program(lambda x: mb.relu(x=x), _long(65537)),
    ),
    "shape.dim_limit_h13": (
        "M1",
        "relu",
        lambda: _program(lambda x: mb.relu(x=x), (1, 65536, 1, 1)),
        lambda: _program(lambda x: mb.relu(x=x), _long(16385)),
    ),
    "matmul.contraction": (
        "M4",
        "matmul",
        lambda: _program(lambda x, y: mb.matmul(x=x, y=y), (2, 32768), (32768, 2)),
        lambda: _program(lambda x, y: mb.matmul(x=x, y=y), (2, 32769), (32769, 2)),
    ),
    "conv.kernel": (
        "M4",
        "conv",
        lambda: _program(lambda x: _conv(_conv(x, 1, 15), 31, 1), X),
        lambda: _program(lambda x: _conv(x, 1, 16), X),
    ),
    "conv.kernel_h13": (
        "M1",
        "conv",
        lambda: _program(lambda x: _conv(x, 1, 13), X),
        lambda: _program(lambda x: _conv(x, 1, 14), X),
    ),
    "max_pool.width": (
        "M4",
        "max_pool",
        lambda: _program(lambda x: _pool(mb.max_pool, x, 9, 8), X),
        lambda: _program(lambda x: _pool(mb.max_pool, x, 1, 9), X),
    ),
    "avg_pool.window": (
        "M4",
        "avg_pool",
        lambda: _program(lambda x: _pool(mb.avg_pool, x, 14, 14), X),
        lambda: _program(lambda x: _pool(mb.avg_pool, x, 1, 32), X),
    ),
    "topk.generation": (
        "M1",
        "topk",
        lambda: _program(lambda x: mb.reduce_max(x=x, axes=[-1]), (1, 64)),
        lambda: _program(
            lambda x: mb.topk(x=x, k=4, axis=-1, output_indices_dtype="uint16")[0], (1, 64)
        ),
    ),
    "texture.generation": (
        "M1",
        "resample",
        lambda: _program(
            lambda x: mb.upsample_nearest_neighbor(
                x=x, scale_factor_height=2, scale_factor_width=2
            ),
            X,
        ),
        lambda: _program(
            lambda x, y: mb.resample(
                x=x,
                coordinates=y,
                sampling_mode="bilinear",
                padding_mode="constant",
                padding_value=np.float16(0),
                coordinates_mode="normalized_minus_one_to_one",
                align_corners=False,
            ),
            X,
            (1, 4, 4, 2),
        ),
    ),
    "state.width": ("M4", "read_state", lambda: _stateful(256), lambda: _stateful(270)),
    "sincos.generation": (
        "M1",
        "sin",
        lambda: _program(lambda x: mb.tanh(x=x), X),
        lambda: _program(lambda x: mb.sin(x=x), X),
    ),
}


@pytest.mark.parametrize("rule", GOLDEN)
def test_good_program_passes(rule):
    target, _, good, _ = GOLDEN[rule]
    for op in plan(good(), chip=target).ops:
        assert "ane" in op.supported, f"{op.op_type}: {op.reason}"


@pytest.mark.parametrize("rule", GOLDEN)
def test_bad_program_is_refused_for_this_reason(rule):
    target, op_type, _, bad = GOLDEN[rule]
    found = [op for op in plan(bad(), chip=target).ops if op.op_type == op_type]
    assert found
    for op in found:
        assert "ane" not in op.supported
        assert op.reason.rule == rule
        assert op.device == "cpu"


# Rules about what coremltools' builder cannot write as a program: facts of one operator.
def _facts(op_type, *inputs, output=X, **attributes):
    tensors = tuple(TensorFacts(shape, dtype) for shape, dtype in inputs)
    return OpFacts(op_type, tensors, (TensorFacts(output, "fp16"),), (), attributes)


WITHOUT_PROGRAM = {
    "dtype.bf16": (_facts("relu", (X, "fp16")), _facts("relu", (X, "bf16"))),
    "shape.empty": (_facts("relu", (X, "fp16")), _facts("relu", ((1, 0, 4, 4), "fp16"))),
    "space_to_batch.rank": (
        _facts("space_to_batch", (X, "fp16")),
        _facts("space_to_batch", ((1, 8, 4, 4, 4), "fp16")),
    ),
    "weights.blockwise": (
        _facts("linear", ((1, 64), "fp16")),
        _facts("linear", ((1, 64), "fp16"), blockwise_weight=True),
    ),
}


@pytest.mark.parametrize("rule", WITHOUT_PROGRAM)
def test_rules_without_a_program(rule):
    good, bad = WITHOUT_PROGRAM[rule]
    assert capability(good).ane
    refused = capability(bad)
    assert not refused.ane
    assert refused.reason.rule == rule


def test_every_rule_has_its_pair():
    assert {rule.reason.rule for rule in rules()} == set(GOLDEN) | set(WITHOUT_PROGRAM)
