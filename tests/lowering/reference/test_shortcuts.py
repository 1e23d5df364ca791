"""Copies and roundings that a run leaves out, where somebody would see it and where nobody does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

from lowering.package.open import open_package
from lowering.reference import load, packed_palettes
from lowering.reference.mixed import MixedProgram
from lowering.reference.model import LoadedModel
from lowering.reference.semantics import SEMANTICS

X = np.arange(12, dtype=np.float32).reshape(3, 4) / 3
ROW = np.full((1, 4), 7, np.float32)


def written(x, row, at: int):
    return mb.slice_update(x=x, update=row, begin=[at, 0], end=[at + 1, 4])


# Of programs of x (3, 4) and a row (1, 4): how many of their writes may write into x.
PROGRAMS: dict[str, tuple[Callable[[Any, Any], Any], int]] = {
    "twice": (lambda x, row: written(written(x, row, 0), row, 2), 2),
    "read_after": (lambda x, row: (written(x, row, 0), mb.add(x=x, y=x)), 0),
    "given_too": (lambda x, row: (mb.identity(x=written(x, row, 0)), mb.identity(x=x)), 0),
    "a_view_read_after": (
        lambda x, row: (lambda view, new: mb.add(x=new, y=view))(
            mb.reshape(x=x, shape=[3, 4]), written(x, row, 0)
        ),
        0,
    ),
    "a_view_written": (lambda x, row: written(mb.reshape(x=x, shape=[3, 4]), row, 1), 0),
    "its_own_rows": (
        lambda x, row: written(x, mb.slice_by_size(x=x, begin=[1, 0], size=[1, 4]), 0),
        0,
    ),
    "first_of_two_branches": (lambda x, row: (written(x, row, 0), written(x, row, 1)), 1),
    "of_a_sum": (lambda x, row: written(mb.add(x=x, y=x), row, 1), 1),
    "a_constant": (lambda x, row: mb.add(x=written(X * 2, row, 1), y=x), 0),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_slice_is_written_where_nobody_reads_what_was_there(name: str):
    build, count = PROGRAMS[name]

    @mb.program(
        input_specs=[mb.TensorSpec((3, 4)), mb.TensorSpec((1, 4))],
        opset_version=ct.target.iOS18,
    )
    def program(x, row):
        return build(x, row)

    loaded = load(program)
    assert sum(step.overwrites for step in loaded.program.body.steps) == count
    inputs = dict(zip(loaded.inputs, (X.copy(), ROW), strict=True))
    names = list(loaded.outputs)
    watched = loaded.run(inputs, observer=lambda op, results, computed: None)
    for _ in range(2):
        found = loaded(inputs)
        for key in names:
            np.testing.assert_array_equal(found[key], watched[key])
        np.testing.assert_array_equal(inputs[next(iter(inputs))], X)


def test_what_a_state_holds_is_not_written_over():
    @mb.program(
        input_specs=[mb.TensorSpec((1, 4), types.fp16), mb.StateTensorSpec((3, 4), types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(row, kept):
        new = written(mb.read_state(input=kept), row, 0)
        mb.coreml_update_state(state=kept, value=new)
        return mb.add(x=written(new, row, 1), y=new)

    loaded = load(program)
    state = loaded.make_state()
    loaded({"row": ROW.astype(np.float16)}, state)
    np.testing.assert_array_equal(state["kept"][1], 0)
    np.testing.assert_array_equal(state["kept"][0], 7)


@pytest.mark.parametrize("reader", ["nobody", "another", "float32", "twice"])
def test_the_last_rounding_is_that_of_what_is_given(reader: str):
    @mb.program(input_specs=[mb.TensorSpec((2, 8), types.fp16)], opset_version=ct.target.iOS17)
    def program(x):
        third = mb.mul(x=x, y=np.float16(1 / 3))
        if reader == "another":
            return third, mb.mul(x=third, y=np.float16(3))
        if reader == "float32":
            return mb.cast(x=third, dtype="fp32")
        return (third, mb.identity(x=third)) if reader == "twice" else third

    loaded = load(program)
    narrow = sum(step.is_half for step in loaded.program.body.steps)
    assert narrow == {"nobody": 1, "another": 1, "float32": 0, "twice": 2}[reader]
    x = np.linspace(-3, 3, 16, dtype=np.float16).reshape(2, 8)
    third = (x.astype(np.float32) * np.float32(np.float16(1 / 3))).astype(np.float16)
    found, *others = loaded({"x": x}).values()
    assert not any(np.shares_memory(found, other) for other in others)
    assert found.dtype == (np.float32 if reader == "float32" else np.float16)
    np.testing.assert_array_equal(found, third)


TABLE = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float16)

# Of programs of x (2, 8) and places (3): whether x is carried as float16, and of the results how
# many.
MOVING: dict[str, tuple[Callable[[Any, Any], Any], bool, int]] = {
    "moved": (lambda x, i: mb.transpose(x=mb.slice_by_size(x=x, begin=[0, 1], size=[2, 4]),
                                        perm=[1, 0]), True, 2),
    "moved_and_computed": (lambda x, i: (mb.reshape(x=x, shape=[4, 4]), mb.exp(x=x)), False, 1),
    "moved_to_be_computed": (lambda x, i: mb.exp(x=mb.reshape(x=x, shape=[4, 4])), False, 1),
    "summed": (lambda x, i: mb.reduce_sum(x=x, axes=[0], keep_dims=False), True, 1),
    "summed_to_be_computed": (
        lambda x, i: mb.exp(x=mb.reduce_mean(x=x, axes=[1], keep_dims=False)), True, 1
    ),
    "of_a_table": (lambda x, i: mb.gather(x=TABLE, indices=i, axis=0), True, 1),
    "computed_and_moved": (
        lambda x, i: mb.reshape(x=mb.mul(x=x, y=np.float16(1 / 3)), shape=[16]), False, 2
    ),
    "beside_a_constant": (lambda x, i: mb.concat(values=[x, TABLE], axis=0), False, 0),
    "beside_what_is_computed_with": (
        lambda x, i: (lambda y: (mb.concat(values=[x, y], axis=0), mb.tanh(x=y)))(mb.exp(x=x)),
        False, 1,
    ),
    "two_views": (
        lambda x, i: (mb.expand_dims(x=x, axes=[0]), mb.identity(x=x), mb.tile(x=x, reps=[2, 1])),
        True, 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("precision", ["fp16", "strict", "fp32"])
def test_what_is_only_moved_stays_float16(name: str, precision: str):
    build, carried, count = MOVING[name]

    @mb.program(
        input_specs=[mb.TensorSpec((2, 8), types.fp16), mb.TensorSpec((3,), types.int32)],
        opset_version=ct.target.iOS17,
    )
    def program(x, i):
        return build(x, i)

    loaded = load(program, precision=precision)
    found_inputs, steps = loaded.program.half_inputs, loaded.program.body.steps
    if precision == "fp16":
        assert (bool(found_inputs), sum(step.is_half for step in steps)) == (carried, count)
    if precision == "fp32":
        assert not found_inputs and not any(step.is_half for step in steps)
    x = np.linspace(-3, 3, 16, dtype=np.float32).reshape(2, 8)
    inputs = {"x": x, "i": np.array([4, 0, 4], np.int32)}
    watched = loaded.run(inputs, observer=lambda op, results, computed: None)
    results = loaded(inputs)
    for key, found in results.items():
        assert found.dtype == watched[key].dtype
        assert found.flags.c_contiguous or precision == "fp32"
        np.testing.assert_allclose(found, watched[key], rtol=1e-3 * name.startswith("summed"))
        found[...] = 7  # the caller may, and nobody else sees it
    again = loaded(inputs)
    for key, found in again.items():
        np.testing.assert_allclose(found, watched[key], rtol=1e-3 * name.startswith("summed"))


@pytest.mark.parametrize("axes", [[0], [1], [2], [0, 1], [1, 2], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("kind", ["reduce_sum", "reduce_mean"])
def test_sums_of_float16_numbers_are_rounded_once(kind: str, axes: list[int]):
    x = torch.randn(3, 130, 70, generator=torch.Generator().manual_seed(0)).half()
    found = SEMANTICS[kind](x, tuple(axes))
    exact = SEMANTICS[kind](x.double(), tuple(axes))
    step = 2.0 ** (torch.frexp(exact.abs()).exponent - 11).clamp(min=-24)
    assert bool(((found.double() - exact).abs() <= 0.51 * step).all())


@pytest.mark.parametrize(
    ("shape", "groups", "direct"),
    [((8, 6), 1, True), ((8, 6), 4, True), ((6, 5, 1, 1), 3, True), ((3, 5), 1, False),
     ((6, 3), 6, False), ((4, 3, 3, 3), 2, True)],
    ids=str,
)  # fmt: skip
def test_palettes_are_decoded_from_their_bytes(tmp_path: Path, shape, groups: int, direct: bool):
    random = np.random.default_rng(0)
    places = random.integers(0, 16, shape).astype(np.uint8)
    lut = random.normal(size=(groups, *[1] * (len(shape) - 1), 16, 1)).astype(np.float16)

    @mb.program(input_specs=[mb.TensorSpec(shape, types.fp16)], opset_version=ct.target.iOS18)
    def program(x):
        indices = places.astype(types.np_uint4_dtype)
        return mb.add(x=x, y=mb.constexpr_lut_to_dense(indices=indices, lut=lut))

    model = ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
    model.save(str(tmp_path / "model.mlpackage"))
    package = open_package(tmp_path / "model.mlpackage")
    _, block = package.function("main")
    (op,) = [op for op in block.operations if op.type.startswith("constexpr")]
    found = packed_palettes.decoded(op, package.weights)
    wanted = SEMANTICS[op.type](torch.from_numpy(places), torch.from_numpy(lut).float())
    assert (found is not None) == direct
    if found is not None:
        assert torch.equal(found, wanted)
    loaded = LoadedModel(tmp_path / "model.mlpackage")
    given = loaded({"x": np.zeros(shape, np.float32)})
    np.testing.assert_array_equal(next(iter(given.values())), wanted.half().numpy())


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_one_hot_of_an_index_that_is_nowhere(axis: int, dtype: torch.dtype):
    indices = torch.tensor([[0, 2, 250], [1, 1, 3]]).to(dtype)
    if dtype is torch.int32:
        indices[0, 1] = -1
    found = SEMANTICS["one_hot"](indices, 3, torch.tensor(5), torch.tensor(2), axis)
    wanted = torch.where(
        indices.int().unsqueeze(-1) == torch.arange(3), torch.tensor(5), torch.tensor(2)
    ).movedim(-1, axis)
    assert torch.equal(found, wanted)


def test_a_write_in_place_in_two_precisions():
    @mb.program(
        input_specs=[mb.TensorSpec((3, 4)), mb.TensorSpec((1, 4))],
        opset_version=ct.target.iOS18,
    )
    def program(x, row):
        return mb.mul(x=written(mb.add(x=x, y=x), row, 1), y=np.float32(1 / 3))

    loaded = load(program)
    (name,) = [step.op.name for step in loaded.program.body.steps if step.overwrites]
    mixed = MixedProgram(loaded, {name: ["x", "update"]}).with_halves([name])
    doubled = (2 * X).astype(np.float16).astype(np.float32)
    doubled[1] = 7
    (found,) = mixed(dict(zip(loaded.inputs, (X, ROW), strict=True))).values()
    np.testing.assert_array_equal(found, doubled * np.float32(1 / 3))
