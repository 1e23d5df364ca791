"""Holds the interface of a finished package against the program it was made from."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import coremltools as ct
from coremltools.converters.mil.mil import types
from google.protobuf.message import Message

from frontend.capturing import RenamedWarning
from lowering.conversion.distinct_outputs import package_name
from lowering.conversion.prepare import Prepared
from lowering.errors import LoweringError
from lowering.package import proto

_ARRAY = proto.FeatureTypes_pb2.ArrayFeatureType
_DTYPES = {
    _ARRAY.FLOAT16: "fp16",
    _ARRAY.FLOAT32: "fp32",
    _ARRAY.INT32: "int32",
    _ARRAY.INT8: "int8",
    _ARRAY.DOUBLE: "fp64",
}
# A size that the description leaves open.
_ANY = -1


def warn_of_renamed(names: Sequence[str], what: str) -> None:
    """Says which inputs or outputs have another name in the package, and which."""
    renamed = {name: package_name(name) for name in names if package_name(name) != name}
    if renamed:
        pairs = ", ".join(f"{name!r} is {other!r}" for name, other in renamed.items())
        warnings.warn(
            f"{what} of the package cannot have all names of the program's, some of which are "
            f"reserved: {pairs}",
            RenamedWarning,
            stacklevel=4,
        )


def check_names(names: Sequence[str], what: str) -> None:
    """Refuse two inputs, outputs or states of one name.

    Raises:
        LoweringError: names those that are taken twice.
    """
    twice = [name for name, count in Counter(map(package_name, names)).items() if count > 1]
    if twice:
        raise LoweringError(
            f"two {what} of the package would have the name {', '.join(map(repr, twice))}",
            expected="names that differ in letters, digits and underscores",
            found=", ".join(names),
            hint=f"give them other names in {what}=[...]",
        )


def check_interface(
    mlmodel: ct.models.MLModel,
    prepared: Prepared,
    inputs: Sequence[ct.TensorType | ct.ImageType],
    outputs: Sequence[ct.TensorType | ct.ImageType],
    classifier: ct.ClassifierConfig | None = None,
) -> None:
    """Refuse a package whose inputs, outputs or states are not those of the program.

    Names, their order, shapes and element types must be what was asked for, in the description and
    in the program that it describes. The probabilities of a classifier are a label and a
    dictionary, which come first.

    Args:
        mlmodel: the package.
        prepared: the program.
        inputs: the types the package was to take, in call order.
        outputs: the types it was to return, in result order.
        classifier: with its ``predicted_probabilities_output`` named.

    Raises:
        LoweringError: says what differs.
    """
    spec = mlmodel._spec
    nodes = {node.name: node for node in prepared.program.graph.nodes}
    wanted_inputs = [
        _wanted(kind, nodes[name].meta["val"].shape)
        for kind, name in zip(inputs, prepared.inputs, strict=True)
    ]
    wanted_outputs = [
        _wanted(kind, nodes[name].meta["val"].shape)
        for kind, name in zip(outputs, prepared.output_nodes, strict=True)
        if classifier is None or kind.name != classifier.predicted_probabilities_output
    ]
    found_outputs = list(spec.description.output)
    if classifier is not None:
        found_outputs = [
            item for item in found_outputs if item.name not in _prediction(spec.description)
        ]
    _compare("inputs", wanted_inputs, [_described(item) for item in spec.description.input])
    _compare("outputs", wanted_outputs, [_described(item) for item in found_outputs])
    states = [
        (package_name(name), tuple(tensor.shape), "fp16")
        for name, tensor in prepared.states().items()
    ]
    _compare("states", states, [_state(item) for item in spec.description.state], ordered=False)
    described = [item.name for item in spec.description.output]
    function = spec.mlProgram.functions[mlmodel._mil_program.default_function_name]
    computed = list(function.block_specializations[function.opset].outputs)
    if described != computed or len(set(computed)) != len(computed):
        raise _differs("outputs", ", ".join(described), ", ".join(computed))


_Entry = tuple[str, tuple[int, ...] | None, str]


def _compare(
    what: str, wanted: Sequence[_Entry], found: Sequence[_Entry], ordered: bool = True
) -> None:
    if not ordered:
        wanted, found = sorted(wanted), sorted(found)
    same = len(wanted) == len(found) and all(
        one[0] == other[0] and _same_shape(one[1], other[1]) and one[2] in ("", other[2])
        for one, other in zip(wanted, found, strict=True)
    )
    if not same:
        raise _differs(what, _spelled(wanted), _spelled(found))


def _differs(what: str, wanted: str, found: str) -> LoweringError:
    return LoweringError(
        f"the {what} of the package are not those of the program",
        expected=wanted or "none",
        found=found or "none",
        hint="this is a defect of the conversion; please report it",
    )


def _wanted(kind: ct.TensorType | ct.ImageType, shape: Sequence[object]) -> _Entry:
    """What the description must say; of an image its height and width."""
    if isinstance(kind, ct.ImageType):
        sides = shape[-3:-1] if kind.channel_first is False else shape[-2:]
        return package_name(kind.name), tuple(_fixed(size) for size in sides), "image"
    sizes = tuple(_fixed(size) for size in shape) or (1,)
    return package_name(kind.name), sizes, types.builtin_to_string(kind.dtype)


def _fixed(size: object) -> int:
    return size if isinstance(size, int) else _ANY


def _described(item: Message) -> _Entry:
    kind = item.type.WhichOneof("Type")
    if kind == "imageType":
        image = item.type.imageType
        fixed = image.WhichOneof("SizeFlexibility") is None
        return item.name, (image.height, image.width) if fixed else None, "image"
    if kind != "multiArrayType":
        return item.name, None, str(kind)
    array = item.type.multiArrayType
    return item.name, _sizes(array), _DTYPES.get(array.dataType, str(array.dataType))


def _sizes(array: Message) -> tuple[int, ...] | None:
    flexibility = array.WhichOneof("ShapeFlexibility")
    if flexibility == "shapeRange":
        return tuple(
            size.lowerBound if size.lowerBound == size.upperBound else _ANY
            for size in array.shapeRange.sizeRanges
        )
    shape = tuple(array.shape)
    if flexibility == "enumeratedShapes":
        shapes = [shape, *(tuple(item.shape) for item in array.enumeratedShapes.shapes)]
        return tuple(
            sizes[0] if len(set(sizes)) == 1 else _ANY for sizes in zip(*shapes, strict=True)
        )
    return shape or None


def _state(item: Message) -> _Entry:
    array = item.type.stateType.arrayType
    return item.name, tuple(array.shape), _DTYPES.get(array.dataType, str(array.dataType))


def _prediction(description: Message) -> tuple[str, str]:
    return description.predictedFeatureName, description.predictedProbabilitiesName


def _same_shape(one: tuple[int, ...] | None, other: tuple[int, ...] | None) -> bool:
    """Whether both may be one shape; coremltools leaves out shapes of scalars and of open sizes."""
    if one is None or other is None:
        return True
    return len(one) == len(other) and all(
        _ANY in (a, b) or a == b for a, b in zip(one, other, strict=True)
    )


def _spelled(entries: Sequence[_Entry]) -> str:
    return ", ".join(f"{name} {shape or ''} {dtype}" for name, shape, dtype in entries)
