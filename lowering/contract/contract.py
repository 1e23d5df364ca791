"""A contract: what a model takes and returns, what it is for, and how it is made a package of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lowering.contract.image import Image
from lowering.contract.size_spec import SizeSpec
from lowering.contract.sound import Sound
from lowering.contract.tasks.base import OutputTask

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
PRECISIONS = ("float16", "float32", "safe")
TARGETS = ("iOS16", "iOS17", "iOS18", "iOS26")
DTYPES = ("float32", "int32", "int64", "bool", "float16", "int16", "int8", "uint8", "float64")


@dataclass(frozen=True)
class ProgramFile:
    """The model itself.

    Attributes:
        file: its name in the folder.
        sha256: of its bytes.
        torch: the release that wrote it.
    """

    file: str
    sha256: str
    torch: str


@dataclass(frozen=True)
class InputSpec:
    """One input of the model.

    Attributes:
        name: its name in program and package.
        shape: of the tensor that the model takes.
        dtype: torch's name of its type.
        image: how a picture becomes this tensor; ``None`` where it is no picture.
        range: smallest and largest value that it may have, where that is known.
        sound: how a waveform becomes this tensor; ``None`` where it is no sound.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    image: Image | None = None
    range: tuple[float, float] | None = None
    sound: Sound | None = None

    @property
    def channels_last(self) -> bool:
        """Whether the model takes a picture as (1, height, width, channels), as Keras does."""
        if self.image is None:
            return False
        batch, channels, height, width = self.image.shape
        return self.shape != self.image.shape and self.shape == (batch, height, width, channels)

    @property
    def takes_image(self) -> bool:
        """Whether its picture has the model's shape."""
        return self.image is None or self.channels_last or self.shape == self.image.shape

    @property
    def form(self) -> Sound:
        """How a waveform becomes this input, which takes sound."""
        assert self.sound is not None
        return self.sound

    @property
    def takes_sound(self) -> bool:
        """Whether its sound has the model's shape, axes of size one aside."""
        if self.sound is None:
            return True
        ours, theirs = (_long(shape) for shape in (self.shape, self.sound.shape))
        return ours == theirs or (self.sound.mels is not None and ours == theirs[::-1])

    @property
    def package_shape(self) -> tuple[int, ...]:
        """Of what the package takes."""
        shape = None if self.sound is None else self.sound.package_shape
        return self.shape if shape is None else shape

    def arranged(self, features: Tensor) -> Tensor:
        """What ``sound`` makes of a waveform, in the shape that the model takes."""
        if features.ndim == 3 and _long(self.shape) != _long(features.shape):
            features = features.transpose(1, 2)
        return features.reshape(self.shape)


@dataclass(frozen=True)
class OutputSpec:
    """One output of the package.

    Attributes:
        name: its name in the package.
        shape: of its tensor.
        dtype: torch's name of its type.
        meaning: what it is, in a sentence; may be empty.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: str = ""


@dataclass(frozen=True)
class StateSpec:
    """A buffer that the model writes, which Core ML keeps between calls.

    Attributes:
        name: of the buffer in the program.
        shape: of its tensor.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Acceptance:
    """When a package is good enough, see ``lowering.verify``.

    Attributes:
        metric: name of a measure of agreement, 1.0 at best.
        at_least: what its mean over the pictures must reach.
    """

    metric: str
    at_least: float


@dataclass(frozen=True)
class PinnedNames:
    """What stays in float32 in a package of safe precision, by the names that it has there.

    Attributes:
        pins: operators.
        ends: inputs and outputs.
    """

    pins: tuple[str, ...]
    ends: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelContract:
    """What stands in ``contract.json``.

    Attributes:
        name: of the model; packages are called so.
        program: the model's file.
        inputs: in the order of the call.
        outputs: of the package, in order, the task's where there is one.
        states: buffers that the model writes.
        task: what is done with the model's own outputs.
        target: minimum deployment target, such as ``iOS17``.
        precision: of weights and arithmetic: ``float16``, ``float32``, or ``safe``, which is
            float16 but for the operators that it would spoil.
        accept: when a package is good enough, beside the errors of its outputs.
        made_with: releases of the tools that wrote it, by name.
        sizes: those of its inputs that vary; shapes are then those of the example.
        pinned: what stays in float32 in ``safe`` precision; ``None`` where each conversion finds
            it.
    """

    name: str
    program: ProgramFile
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    states: tuple[StateSpec, ...] = ()
    task: OutputTask | None = None
    target: str = "iOS17"
    precision: str = "float16"
    accept: Acceptance | None = None
    made_with: Mapping[str, str] = field(default_factory=dict)
    sizes: tuple[SizeSpec, ...] = ()
    pinned: PinnedNames | None = None

    @property
    def sounds(self) -> dict[str, InputSpec]:
        """The inputs that take sounds, by name."""
        return {entry.name: entry for entry in self.inputs if entry.sound is not None}

    @property
    def waveforms(self) -> dict[str, InputSpec]:
        """Those of them for which the package takes the waveform."""
        return {name: entry for name, entry in self.sounds.items() if entry.form.package_shape}

    @property
    def images(self) -> dict[str, Image]:
        """The inputs that take pictures, by name."""
        return {entry.name: entry.image for entry in self.inputs if entry.image is not None}

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Between which numbers inputs lie, by name, where that is said."""
        return {entry.name: entry.range for entry in self.inputs if entry.range is not None}

    def shape_in_words(self, entry: InputSpec) -> list[str]:
        """The sizes of one of its inputs, by their names where they vary."""
        names = {place: size.name for size in self.sizes for place in size.places}
        return [names.get((entry.name, axis), str(n)) for axis, n in enumerate(entry.shape)]

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "program": vars(self.program),
            "inputs": [
                {
                    "name": entry.name,
                    "shape": list(entry.shape),
                    "dtype": entry.dtype,
                    "range": None if entry.range is None else list(entry.range),
                    "image": None if entry.image is None else entry.image.to_json(),
                    **({} if entry.sound is None else {"sound": entry.sound.to_json()}),
                }
                for entry in self.inputs
            ],
            "outputs": [{**vars(entry), "shape": list(entry.shape)} for entry in self.outputs],
            "states": [{**vars(entry), "shape": list(entry.shape)} for entry in self.states],
            "task": None if self.task is None else self.task.to_json(),
            "target": self.target,
            "precision": self.precision
            if self.pinned is None
            else {
                "mode": self.precision,
                "pins": list(self.pinned.pins),
                "ends": list(self.pinned.ends),
            },
            "accept": None if self.accept is None else vars(self.accept),
            "made_with": dict(self.made_with),
            **({"sizes": [entry.to_json() for entry in self.sizes]} if self.sizes else {}),
        }

    def to_text(self) -> str:
        """The bytes of ``contract.json``; the same for equal contracts."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def digest(self) -> str:
        """Of what it says, however its file is laid out."""
        plain = json.dumps(self.to_json(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(plain.encode()).hexdigest()


def _long(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]
