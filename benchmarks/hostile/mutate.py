"""Packages whose specification is well-formed protobuf and says something wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import coremltools as ct
import numpy as np

from benchmarks.hostile.case import Case
from benchmarks.hostile.damage import Damage, case
from benchmarks.hostile.drawn import Change, drawn
from benchmarks.hostile.sound import MODEL
from lowering.package.proto import MIL_pb2, Model_pb2

_VERBS = ("predict", "plan")
_DRAWN = 200
# `plan` runs nothing: it needs neither a description nor memory, and plans what it does not know.
_PLANNED = ("functions", "operators", "description", "sizes", "loops")
_HUGE = 1 << 40


def cases(sound: Mapping[str, Path], rng: np.random.Generator) -> Iterator[Case]:
    """Changes that are named, each of every package that it fits; then changes that are drawn."""
    for kind, name, base, change in _named():
        for verb in _VERBS:
            refused = verb == "predict" or kind not in _PLANNED
            yield case(kind, name, sound[base], _changed(change), verb, refused)
    names = list(sound)
    for number in range(_DRAWN):
        seed = int(rng.integers(2**31))
        base = names[number % len(names)]
        verb = _VERBS[number // len(names) % 2]
        yield case("drawn change", str(seed), sound[base], _changed(drawn(seed)), verb)


def _changed(change: Change) -> Damage:
    def damage(package: Path) -> None:
        spec = ct.proto.Model_pb2.Model()
        spec.ParseFromString((package / MODEL).read_bytes())
        change(spec)
        (package / MODEL).write_bytes(spec.SerializePartialToString())

    return damage


def _named() -> Iterator[tuple[str, str, str, Change]]:
    yield "functions", "none", "dense", lambda spec: spec.mlProgram.functions.clear()
    yield "functions", "other name", "dense", _renamed
    yield "functions", "no block", "dense", lambda spec: _main(spec).block_specializations.clear()
    yield (
        "functions",
        "other opset",
        "dense",
        lambda spec: setattr(_main(spec), "opset", "CoreML99"),
    )
    yield "values", "undefined argument", "dense", _rebound("nowhere")
    yield (
        "values",
        "undefined output",
        "dense",
        lambda spec: _block(spec).outputs.__setitem__(0, "?"),
    )
    yield "values", "used before it is made", "dense", _reversed
    yield "values", "made twice", "dense", _twice
    yield (
        "values",
        "undefined in a loop",
        "control",
        _inner(lambda b: b.outputs.__setitem__(0, "?")),
    )
    yield "values", "loop without blocks", "control", lambda spec: _loop(spec).ClearField("blocks")
    yield "values", "loop with one block", "control", lambda spec: _loop(spec).blocks.pop()
    yield "values", "loop yields too little", "control", _inner(lambda b: b.outputs.pop())
    yield "values", "constant without a value", "dense", _empty_constant
    yield (
        "values",
        "operator without outputs",
        "dense",
        lambda spec: _op(spec).ClearField("outputs"),
    )
    yield (
        "operators",
        "unknown operator",
        "dense",
        lambda spec: setattr(_op(spec), "type", "no_such_op"),
    )
    yield "operators", "missing parameter", "dense", lambda spec: _op(spec).inputs.pop("x")
    yield "types", "unknown element type", "dense", _typed(77)
    yield "description", "other input", "dense", lambda spec: setattr(_in(spec), "name", "other")
    yield "description", "no input", "dense", lambda spec: spec.description.ClearField("input")
    yield "description", "other output", "dense", lambda spec: setattr(_out(spec), "name", "other")
    yield "description", "no type", "dense", lambda spec: _in(spec).ClearField("type")
    for size in (_HUGE, -4, 0):
        yield "sizes", f"input of {size}", "dense", _sized(size)
        yield "sizes", f"constant of {size}", "dense", _constant_sized(size)
        yield "sizes", f"state of {size}", "state", _state_sized(size)
        yield "sizes", f"picture of {size}", "picture", _picture_sized(size)
    for offset in (1, 63, _HUGE, (1 << 64) - 1):
        yield "weights", f"offset {offset}", "dense", _blobs_set("offset", offset)
    for name in ("/etc/passwd", "@model_path/weights/../../../../x", "no.bin", "", "a\0b"):
        yield "weights", f"file {name!r}", "dense", _blobs_set("fileName", name)
    yield "loops", "without an end", "control", _endless
    for text in ("{", "[]", '{"a": 1}', '{"a": {"passes": 3}}', "null", "[" * 100_000, "\0"):
        yield "metadata", f"sources {text[:24]!r}", "dense", _metadata("sources", text)
    yield "pipeline", "without stages", "pipeline", lambda spec: spec.pipeline.ClearField("models")
    yield "pipeline", "an empty stage", "pipeline", lambda spec: spec.pipeline.models[1].Clear()
    yield "pipeline", "stages that do not fit", "pipeline", lambda s: s.pipeline.models.reverse()
    yield "pipeline", "a stage without functions", "pipeline", _hollow_stage
    for kind in (
        "neuralNetwork",
        "treeEnsembleClassifier",
        "glmRegressor",
        "pipeline",
        "customModel",
    ):
        yield "other models", kind, "dense", _of_kind(kind)
    yield "other models", "of no kind", "dense", lambda spec: spec.ClearField("mlProgram")


def _main(spec: Model_pb2.Model) -> MIL_pb2.Function:
    return spec.mlProgram.functions["main"]


def _block(spec: Model_pb2.Model) -> MIL_pb2.Block:
    function = _main(spec)
    return function.block_specializations[function.opset]


def _op(spec: Model_pb2.Model) -> MIL_pb2.Operation:
    """The first operator that is no constant."""
    return next(op for op in _block(spec).operations if op.type != "const")


def _loop(spec: Model_pb2.Model) -> MIL_pb2.Operation:
    return next(op for op in _block(spec).operations if op.type == "while_loop")


def _in(spec: Model_pb2.Model) -> Model_pb2.FeatureDescription:
    return spec.description.input[0]


def _out(spec: Model_pb2.Model) -> Model_pb2.FeatureDescription:
    return spec.description.output[0]


def _renamed(spec: Model_pb2.Model) -> None:
    spec.mlProgram.functions["other"].CopyFrom(_main(spec))
    del spec.mlProgram.functions["main"]


def _rebound(name: str) -> Change:
    return lambda spec: setattr(_op(spec).inputs["x"].arguments[0], "name", name)


def _reversed(spec: Model_pb2.Model) -> None:
    operations = list(_block(spec).operations)[::-1]
    copies = [type(operation).FromString(operation.SerializeToString()) for operation in operations]
    del _block(spec).operations[:]
    _block(spec).operations.extend(copies)


def _twice(spec: Model_pb2.Model) -> None:
    first, second = [op for op in _block(spec).operations if op.type != "const"][:2]
    second.outputs[0].name = first.outputs[0].name


def _inner(change: Change) -> Change:
    return lambda spec: change(_loop(spec).blocks[1])


def _empty_constant(spec: Model_pb2.Model) -> None:
    constant = next(op for op in _block(spec).operations if op.type == "const")
    constant.inputs.clear()
    constant.attributes.pop("val", None)


def _typed(code: int) -> Change:
    return lambda spec: setattr(_op(spec).outputs[0].type.tensorType, "dataType", code)


def _size(value_type: MIL_pb2.ValueType, size: int) -> None:
    value_type.tensorType.dimensions[0].constant.size = size % (1 << 64)


def _sized(size: int) -> Change:
    def change(spec: Model_pb2.Model) -> None:
        _in(spec).type.multiArrayType.shape[0] = size
        _size(_main(spec).inputs[0].type, size)

    return change


def _constant_sized(size: int) -> Change:
    def change(spec: Model_pb2.Model) -> None:
        for op in _block(spec).operations:
            value = op.attributes.get("val")
            if op.type == "const" and value is not None and value.type.tensorType.dimensions:
                _size(value.type, size)

    return change


def _state_sized(size: int) -> Change:
    def change(spec: Model_pb2.Model) -> None:
        for item in _main(spec).inputs:
            if item.type.WhichOneof("type") == "stateType":
                _size(item.type.stateType.wrappedType, size)

    return change


def _picture_sized(size: int) -> Change:
    return lambda spec: setattr(_in(spec).type.imageType, "width", size)


def _blobs(spec: Model_pb2.Model) -> Iterator[MIL_pb2.Value.BlobFileValue]:
    for op in _block(spec).operations:
        for value in op.attributes.values():
            if value.WhichOneof("value") == "blobFileValue":
                yield value.blobFileValue


def _blobs_set(field: str, value: object) -> Change:
    def change(spec: Model_pb2.Model) -> None:
        for blob in _blobs(spec):
            setattr(blob, field, value)

    return change


def _endless(spec: Model_pb2.Model) -> None:
    """The counter of the loop grows by nothing."""
    _, body = _loop(spec).blocks
    body.outputs[0] = body.inputs[0].name


def _metadata(name: str, text: str) -> Change:
    key = f"com.ane-passes.{name}"
    return lambda spec: spec.description.metadata.userDefined.__setitem__(key, text)


def _hollow_stage(spec: Model_pb2.Model) -> None:
    spec.pipeline.models[0].mlProgram.functions.clear()


def _of_kind(kind: str) -> Change:
    return lambda spec: getattr(spec, kind).SetInParent()
