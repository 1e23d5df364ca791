"""Programs that are sound protobuf and hold together nowhere: one error that names file and op."""

import shutil

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from torch import nn

from lowering import convert, plan, save
from lowering.errors import PackageError
from lowering.package.open import open_package
from lowering.package.source_table import SOURCES_KEY, SourceTable
from lowering.reference import ExecutionError, InputError, load, predict
from tests.lowering.reference.reference_models import save_spec


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("package") / "net.mlpackage"
    return save(convert(nn.Sequential(nn.Linear(64, 32), nn.ReLU()), (torch.ones(1, 64),)), path)


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    @mb.program(input_specs=[mb.TensorSpec(shape=(4,))], opset_version=ct.target.iOS17)
    def program(x):
        _, value = mb.while_loop(
            _cond=lambda i, v: mb.less(x=i, y=3),
            _body=lambda i, v: (mb.add(x=i, y=1), mb.mul(x=v, y=0.5)),
            loop_vars=(np.int32(0), x),
        )
        return mb.relu(x=value, name="y")

    model = ct.convert(
        program,
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
        pass_pipeline=ct.PassPipeline.EMPTY,
    )
    path = tmp_path_factory.mktemp("package") / "net.mlpackage"
    return save(model, path)


def changed(package, tmp_path, change):
    copy = shutil.copytree(package, tmp_path / "net.mlpackage")
    save_spec(copy, change)
    return copy


def main(spec):
    return spec.mlProgram.functions["main"]


def block(spec):
    return main(spec).block_specializations[main(spec).opset]


def first(spec, op_type):
    return next(op for op in block(spec).operations if op.type == op_type)


def compute(spec):
    return next(op for op in block(spec).operations if op.type != "const")


def clear_constant(spec):
    first(spec, "const").inputs.clear()
    first(spec, "const").attributes.pop("val", None)


def shape_of_constants(size):
    def change(spec):
        for op in block(spec).operations:
            value = op.attributes.get("val")
            if value is not None and value.type.tensorType.dimensions:
                value.type.tensorType.dimensions[0].constant.size = size

    return change


def same_names(spec):
    for op in block(spec).operations:
        op.outputs[0].name = "one"


def refused(read, package, *texts):
    with pytest.raises(PackageError) as caught:
        read(package)
    for text in (str(package), "next step", *texts):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (clear_constant, "a constant with one value 'val'"),
        (lambda spec: first(spec, "const").outputs.pop(), "a constant with one result"),
        (same_names, "'one' is made twice"),
        (lambda spec: compute(spec).outputs[0].ClearField("type"), "values with a type"),
        (lambda spec: compute(spec).inputs["x"].arguments[0].Clear(), "a name or a value for 'x'"),
        (lambda spec: block(spec).outputs.__setitem__(0, "?"), "'?' is used but not defined"),
        (lambda spec: compute(spec).blocks.add(), "0 blocks"),
        (shape_of_constants(1 << 40), "sizes that an int32 holds"),
        (shape_of_constants(5), "5"),
        (lambda spec: first(spec, "const").attributes["val"].Clear(), "values with a type"),
    ],
)
def test_damaged_programs(dense, tmp_path, change, text):
    package = changed(dense, tmp_path, change)
    for read in (load, plan, open_package):
        refused(read, package, text)


def in_loop(change):
    return lambda spec: change(first(spec, "while_loop"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda op: op.blocks.pop(), "2 blocks"),
        (lambda op: op.ClearField("blocks"), "2 blocks"),
        (lambda op: op.blocks[1].outputs.pop(), "a block of 2 inputs and 2 outputs"),
        (lambda op: op.blocks[0].inputs.pop(), "a block of 2 inputs and 1 outputs"),
        (lambda op: op.inputs["loop_vars"].arguments.pop(), "2 variables of the loop"),
        (lambda op: op.blocks[1].outputs.__setitem__(0, "far"), "'far' is used but not defined"),
    ],
)
def test_damaged_loops(loop, tmp_path, change, text):
    package = changed(loop, tmp_path, in_loop(change))
    for read in (load, plan):
        refused(read, package, text)


def test_a_loop_without_an_end(loop, tmp_path):
    def endless(op):
        op.blocks[1].outputs[0] = op.blocks[1].inputs[0].name

    package = changed(loop, tmp_path, in_loop(endless))
    with pytest.raises(ExecutionError, match="does not end") as caught:
        load(package, max_turns=50)({"x": np.ones(4)})
    assert str(package) in str(caught.value) and "50 turns" in str(caught.value)


@pytest.mark.parametrize(("turns", "ends"), [(2, False), (3, True), (4, True)])
def test_turns_are_counted(loop, turns, ends):
    model = load(loop, max_turns=turns)
    if ends:
        np.testing.assert_allclose(model({"x": np.ones(4)})["y"], np.full(4, 0.125))
    else:
        with pytest.raises(ExecutionError, match="does not end"):
            model({"x": np.ones(4)})


def describe(size):
    def change(spec):
        spec.description.input[0].type.multiArrayType.shape[:] = [size, 64]

    return change


def declare(size):
    def change(spec):
        for dimension in main(spec).inputs[0].type.tensorType.dimensions:
            dimension.constant.size = size

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (describe(1 << 40), "larger than the memory of this machine"),
        (describe(-4), "sizes of 0 and more"),
        (declare((1 << 31) - 1), "larger than the memory of this machine"),
        (declare((1 << 64) - 4), "sizes that an int32 holds"),
    ],
)
def test_sizes_beyond_any_machine(dense, tmp_path, change, text):
    refused(load, changed(dense, tmp_path, change), text)


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: setattr(spec.description.input[0], "name", "other"),
        lambda spec: setattr(spec.description.output[0], "name", "other"),
        lambda spec: spec.description.ClearField("input"),
    ],
)
def test_descriptions_of_other_programs(dense, tmp_path, change):
    refused(load, changed(dense, tmp_path, change), "of the description")


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", '{"a": 1}', '{"a": {"passes": 3}}', "[" * 100_000]
)
def test_damaged_source_tables(text):
    with pytest.raises(PackageError, match="table of source lines is damaged") as caught:
        SourceTable.from_metadata({SOURCES_KEY: text})
    assert SOURCES_KEY in str(caught.value) and "next step" in str(caught.value)


@pytest.mark.parametrize(
    "given", [{}, {"input": np.ones((1, 3))}, {"other": np.ones(1)}, {"input": "text"}]
)
def test_errors_of_a_call_name_the_package(dense, given):
    with pytest.raises(InputError) as caught:
        predict(dense, given)
    assert str(dense) in str(caught.value) and caught.value.details["next step"]
