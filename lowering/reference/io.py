"""Between the caller's numpy arrays and images and the program's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from google.protobuf.message import Message
from torch import Tensor

from frontend.errors import InputError
from lowering.package import proto
from lowering.package.dtypes import BOOL, FP16, FP32, FP64, INT8, INT32, DType
from lowering.package.kinds import damaged
from lowering.reference.images import from_image, to_image
from lowering.reference.precision import round_to_fp16
from lowering.reference.program import Function, Value
from lowering.support.memory import check_fits

_PIXEL_BITS = 3 * 32  # three channels, as float32
_ARRAY = proto.FeatureTypes_pb2.ArrayFeatureType
_FEATURE_DTYPE: dict[int, DType] = {
    _ARRAY.FLOAT16: FP16,
    _ARRAY.FLOAT32: FP32,
    _ARRAY.DOUBLE: FP64,
    _ARRAY.INT32: INT32,
    _ARRAY.INT8: INT8,
}


@dataclass(frozen=True)
class Feature:
    """An input or output as the model description has it.

    Attributes:
        name: its name.
        dtype: element type the caller sees.
        ranges: per dimension the smallest and largest size, the latter ``None`` if unlimited;
            ``None`` when the description says nothing.
        enumerated: the only legal shapes, when they are enumerated.
        image: the ``ImageFeatureType`` of an image.
        default: value of an optional input that is not given, ``None`` when it must be given.
        default_shape: the shape that the description names, ``()`` when it names none.
    """

    name: str
    dtype: DType
    ranges: tuple[tuple[int, int | None], ...] | None = None
    enumerated: tuple[tuple[int, ...], ...] = ()
    image: Any | None = None
    default: float | None = None
    default_shape: tuple[int, ...] = ()

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raises :class:`InputError` if an array of ``shape`` may not be given."""
        shape = tuple(shape)
        if shape == self._fixed:
            return
        if self.enumerated:
            if shape not in self.enumerated:
                legal = ", ".join(str(item) for item in self.enumerated)
                raise self._wrong_shape(f"one of {legal}", shape)
        elif self.ranges is not None:
            fits = len(shape) == len(self.ranges) and all(
                low <= size and (high is None or size <= high)
                for size, (low, high) in zip(shape, self.ranges, strict=True)
            )
            if not fits:
                raise self._wrong_shape(_range_text(self.ranges), shape)

    @cached_property
    def _fixed(self) -> tuple[int, ...] | None:
        """The only legal shape, if there is one."""
        if self.enumerated or self.ranges is None:
            return None
        sizes = tuple(low for low, high in self.ranges if low == high)
        return sizes if len(sizes) == len(self.ranges) else None

    def _wrong_shape(self, expected: str, found: tuple[int, ...]) -> InputError:
        return InputError(
            f"input {self.name!r} has the wrong shape", expected=expected, found=str(found)
        )


def features(
    description: Message | None, function: str, compiled: Function
) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """Inputs and outputs of ``function``, from the description, or from the program without one."""
    states = {item.name for item in compiled.inputs if item.kind == "state"}
    if description is None:
        inputs = {i.name: _declared_feature(i) for i in compiled.inputs if i.name not in states}
        return inputs, {item.name: _declared_feature(item) for item in compiled.outputs}
    source = description
    for candidate in description.functions:
        if candidate.name == function:
            source = candidate
    inputs = {item.name: _described_feature(item) for item in source.input}
    outputs = {item.name: _described_feature(item) for item in source.output}
    made = {item.name for item in compiled.outputs}
    taken = {item.name for item in compiled.inputs} - states
    for what, described, has in (("inputs", set(inputs), taken), ("outputs", set(outputs), made)):
        # An output may be kept to the program; an input may be described and not read.
        missing = sorted(has - described if what == "inputs" else described - has)
        if missing:
            raise damaged(
                f"{what} of the description that are those of function {function!r}: "
                f"{', '.join(sorted(has)) or 'none'}",
                f"{', '.join(sorted(described)) or 'none'}; {', '.join(missing)} on one side only",
            )
    return inputs, outputs


def to_value(
    feature: Feature, declared: Value, given: object, rounds: bool = True, half: bool = False
) -> Tensor:
    """What the caller gave for an input as a value of the program, rounded as declared.

    Without ``rounds`` an input declared fp16 is taken as float32; it is given as float16 numbers
    if ``half``.

    Raises:
        InputError: its type, shape or elements do not fit.
    """
    if feature.image is not None:
        pixels = from_image(feature.name, feature.image, given)
        rounded = round_to_fp16(pixels) if declared.dtype is FP16 and rounds else pixels
        return rounded.half() if half else rounded
    array = _as_array(feature, given)
    if declared.shape == () and array.shape == (1,):
        array = array.reshape(())  # Core ML has no scalars: it sees them as one-element arrays
    elif declared.shape == (1,) and array.shape == ():
        array = array.reshape(1)  # likewise
    elif declared.shape == () and array.shape == ():
        pass
    else:
        feature.check_shape(array.shape)
    assert declared.dtype is not None
    dtype = FP32 if declared.dtype is FP16 and not rounds else declared.dtype
    return _converted(feature, array, dtype, half)


def to_output(feature: Feature, value: object, keep_fp32: bool) -> object:
    """A value of the program in the form the caller gets: numpy array, image, label or dict.

    With ``keep_fp32`` an output declared fp16 comes as float32, unrounded.
    """
    if feature.image is not None:
        if not isinstance(value, Tensor):
            raise TypeError(f"a picture is made of a tensor, not of {type(value).__name__}")
        return to_image(feature.image, value)
    if not isinstance(value, Tensor):
        return value
    dtype = FP32 if keep_fp32 and feature.dtype is FP16 else feature.dtype
    array = stored(value, dtype)
    return array.reshape(1) if array.ndim == 0 else array


def stored(value: Tensor, dtype: DType) -> np.ndarray:
    """A copy of ``value`` as the caller sees a value of ``dtype``.

    Torch rounds to fp16: numpy takes 60 times longer where a result is subnormal (*measured*).
    """
    if dtype is FP16 and value.dtype is torch.float32:
        return value.half().numpy()
    if dtype is FP16 and value.dtype is torch.float16:  # as the last step made it
        return value.numpy()
    with np.errstate(over="ignore"):
        return value.numpy().astype(dtype.storage)


def missing_and_unknown(
    inputs: Mapping[str, Any], expected: Mapping[str, Feature], states: Sequence[str]
) -> None:
    """Raises :class:`InputError` unless ``inputs`` has what is expected and nothing else."""
    if inputs.keys() == expected.keys():
        return
    missing = [
        name for name, item in expected.items() if name not in inputs and item.default is None
    ]
    unknown = [name for name in inputs if name not in expected]
    if missing or unknown:
        hint = "state is passed as state=make_state(model)" if set(unknown) & set(states) else None
        text = [f"missing {', '.join(missing)}"] if missing else []
        text += [f"unknown {', '.join(unknown)}"] if unknown else []
        raise InputError(
            "the inputs are not those of the model",
            expected=", ".join(expected),
            found="; ".join(text),
            hint=hint,
        )


def _as_array(feature: Feature, given: object) -> np.ndarray:
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = given.float() if given.dtype is torch.bfloat16 else given
        return given.numpy()
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise InputError(
            f"input {feature.name!r} is not an array", found=f"{type(given).__name__}: {error}"
        ) from error
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"input {feature.name!r} has the wrong type",
            expected=f"an array of {feature.dtype.name}",
            found=f"{type(given).__name__} with elements of {array.dtype}",
        )
    return array


def _converted(feature: Feature, array: np.ndarray, dtype: DType, half: bool) -> Tensor:
    """``array`` as ``dtype``; numbers may change type but not value, except for float precision."""
    if not dtype.is_float and array.dtype.kind == "f":
        whole = np.trunc(array)
        if not np.array_equal(whole, array):
            raise InputError(
                f"input {feature.name!r} has the wrong type",
                expected=f"whole numbers: the model declares {dtype.name}",
                found=f"{array.dtype} with fractions, NaN or infinity",
            )
    if not dtype.is_float and dtype is not BOOL and array.size and array.dtype != dtype.storage:
        limits = np.iinfo(dtype.storage)
        if array.min() < limits.min or array.max() > limits.max:
            raise InputError(
                f"input {feature.name!r} does not fit {dtype.name}",
                expected=f"{limits.min} to {limits.max}",
                found=f"{array.min()} to {array.max()}",
            )
    return carried(array, dtype, half)


def carried(array: np.ndarray, dtype: DType, half: bool = False) -> Tensor:
    """``array``, rounded to ``dtype``, as it is carried; a copy, for the caller may change it.

    With ``half`` float16 numbers stay float16.
    """
    if dtype is FP16 and array.dtype == np.float32:
        if not (array.flags.c_contiguous and array.flags.writeable):
            array = array.copy(order="C")
        given = torch.from_numpy(array)
        return given.half() if half else round_to_fp16(given)
    with np.errstate(over="ignore"):
        as_stored = array.astype(dtype.storage)
    given = torch.from_numpy(as_stored)
    return given if half else given.to(dtype.carrier)


def _declared_feature(value: Value) -> Feature:
    ranges = None
    if value.shape is not None:
        ranges = tuple((0, None) if size < 0 else (size, size) for size in value.shape)
    return Feature(value.name, value.dtype or FP32, ranges)


def _described_feature(item: Message) -> Feature:
    kind = item.type.WhichOneof("Type")
    if kind == "imageType":
        pixels = (item.type.imageType.height, item.type.imageType.width)
        _check_described(item.name, pixels, _PIXEL_BITS)
        return Feature(item.name, FP32, image=item.type.imageType)
    if kind != "multiArrayType":
        return Feature(item.name, FP32)
    array = item.type.multiArrayType
    default_field = array.WhichOneof("defaultOptionalValue")
    default = None
    if item.type.isOptional:
        default = float(getattr(array, default_field)) if default_field else 0.0
    ranges: tuple[tuple[int, int | None], ...] | None = None
    enumerated: tuple[tuple[int, ...], ...] = ()
    _check_described(item.name, array.shape, _FEATURE_DTYPE.get(array.dataType, FP32).bits)
    flexibility = array.WhichOneof("ShapeFlexibility")
    if flexibility == "shapeRange":
        ranges = tuple(
            (size.lowerBound, None if size.upperBound < 0 else size.upperBound)
            for size in array.shapeRange.sizeRanges
        )
    elif flexibility == "enumeratedShapes":
        enumerated = tuple(tuple(item.shape) for item in array.enumeratedShapes.shapes)
        enumerated = (tuple(array.shape), *enumerated)
    elif array.shape:
        ranges = tuple((size, size) for size in array.shape)
    dtype = _FEATURE_DTYPE.get(array.dataType, FP32)
    return Feature(
        item.name,
        dtype,
        ranges,
        tuple(dict.fromkeys(enumerated)),
        default=default,
        default_shape=tuple(array.shape),
    )


def _check_described(name: str, shape: Sequence[int], bits: int) -> None:
    if min(shape, default=0) < 0:
        raise damaged("sizes of 0 and more", f"a shape of {tuple(shape)} for {name!r}")
    check_fits(shape, bits, f"{name!r} of the model's description")


def default_array(feature: Feature, declared: Value) -> np.ndarray:
    """The value of an optional input that was not given."""
    return np.full(feature.default_shape if declared.shape != () else (), feature.default)


def _range_text(ranges: tuple[tuple[int, int | None], ...]) -> str:
    sizes = [
        str(low) if low == high else f"{low}..{'' if high is None else high}"
        for low, high in ranges
    ]
    return f"({', '.join(sizes)})"
