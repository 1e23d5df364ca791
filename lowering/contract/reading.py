"""``contract.json`` read strictly: every problem is found, and all are said at once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from frontend.json_text import parse
from lowering.contract.contract import (
    DTYPES,
    PRECISIONS,
    SCHEMA,
    TARGETS,
    Acceptance,
    InputSpec,
    ModelContract,
    OutputSpec,
    PinnedNames,
    ProgramFile,
    StateSpec,
)
from lowering.contract.errors import ContractError
from lowering.contract.image import Image
from lowering.contract.names import CONTRACT_KEY
from lowering.contract.size_spec import SizeSpec, size_problems
from lowering.contract.sound import Sound
from lowering.contract.tasks import TASKS
from lowering.contract.tasks.base import OutputTask
from lowering.verification.metrics import METRICS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Made = TypeVar("Made")
Settings = TypeVar("Settings", Image, Sound)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_AGAIN = "write the folder again with `ane-passes export`, or mend the file"


def contract_of(text: str, label: str) -> ModelContract:
    """The contract in the text of a ``contract.json``.

    Args:
        text: the text.
        label: its place, for messages.

    Raises:
        ContractError: it is none, or by a later version; all that is wrong with it at once.
    """
    try:
        raw = parse(text, _without_repeats)
    except ValueError as error:
        raise ContractError(
            f"the contract is no JSON: {error}", found=label, hint=_AGAIN
        ) from error
    if isinstance(raw, dict) and isinstance(raw.get("schema"), int) and raw["schema"] > SCHEMA:
        raise ContractError(
            f"the contract has schema {raw['schema']}, and this version reads up to {SCHEMA}",
            found=label,
            hint="use a later version of ane-passes",
        )
    reader = _Reader()
    found = reader.contract(raw)
    if reader.problems or found is None:
        raise ContractError(
            "the contract cannot be used", reader.problems, found=label, hint=_AGAIN
        )
    return found


def package_contract(metadata: Mapping[str, str], label: str) -> ModelContract | None:
    """The contract in a package's metadata, where there is one.

    Raises:
        ContractError: it cannot be used.
    """
    text = metadata.get(CONTRACT_KEY)
    return None if text is None else contract_of(text, label)


def _without_repeats(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"keys stand there twice: {', '.join(twice)}")
    return found


class _Reader:
    """Takes plain values apart; what is wrong is noted with its place.

    Attributes:
        problems: in the order they were found.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def contract(self, raw: object) -> ModelContract | None:
        parts = [entry.name for entry in fields(ModelContract) if entry.name != "pinned"]
        known = ("schema", *parts)
        optional = {"states", "task", "accept", "made_with", "sizes"}
        top = self._object(raw, "the contract", known, optional)
        if top is None:
            return None
        if top["schema"] != SCHEMA or isinstance(top["schema"], bool):
            self._note("schema", f"is {top['schema']!r}, not {SCHEMA}")
        name = self._text(top["name"], "name", _NAME)
        program = self._made(ProgramFile, top["program"], "program", self._program)
        inputs = self._list(top["inputs"], "inputs", self._input)
        outputs = self._list(top["outputs"], "outputs", self._output)
        states = self._list(top.get("states", []), "states", self._state, empty=True)
        self._unique(inputs, "inputs")
        self._unique(outputs, "outputs")
        task = None if top.get("task") is None else self._task(top["task"])
        target = self._one_of(top["target"], "target", TARGETS)
        precision, pinned = self._precision(top["precision"])
        accept = None
        if top.get("accept") is not None:
            accept = self._made(Acceptance, top["accept"], "accept", self._accept)
        made_with = self._texts(top.get("made_with", {}), "made_with")
        sizes = self._list(top.get("sizes", []), "sizes", self._size, empty=True)
        self._unique(sizes, "sizes")
        self._check_places(sizes, inputs)
        if self.problems or program is None:
            return None
        return ModelContract(
            name=name,
            program=program,
            inputs=inputs,
            outputs=outputs,
            states=states,
            task=task,
            target=target,
            precision=precision,
            accept=accept,
            made_with=made_with,
            sizes=sizes,
            pinned=pinned,
        )

    def _precision(self, raw: object) -> tuple[str, PinnedNames | None]:
        if not isinstance(raw, dict):
            return self._one_of(raw, "precision", PRECISIONS), None
        kept = ("pins", "ends")
        values = self._object(raw, "precision", ("mode", *kept), set(kept))
        if values is None:
            return "", None
        mode = self._one_of(values["mode"], "precision.mode", PRECISIONS)
        if "pins" not in values and "ends" not in values:
            return mode, None
        if mode != "safe":
            self._note("precision", f"names what stays in float32, and its mode is {mode!r}")
        names = [
            self._list(values.get(key, []), f"precision.{key}", self._text, empty=True)
            for key in kept
        ]
        return mode, PinnedNames(*names)

    def _program(self, raw: Mapping[str, object], at: str) -> ProgramFile:
        file = self._text(raw["file"], f"{at}.file", _NAME)
        sha256 = self._text(raw["sha256"], f"{at}.sha256", _SHA256)
        return ProgramFile(file, sha256, self._text(raw["torch"], f"{at}.torch"))

    def _input(self, raw: object, at: str) -> InputSpec | None:
        return self._made(InputSpec, raw, at, self._input_parts)

    def _input_parts(self, raw: Mapping[str, object], at: str) -> InputSpec:
        shape = self._shape(raw["shape"], f"{at}.shape")
        image = None
        if raw.get("image") is not None:
            image = self._settings(Image, raw["image"], f"{at}.image")
            fits = InputSpec("", shape, "", image).takes_image
            if image is not None and not fits:
                self._note(f"{at}.image", f"makes {list(image.shape)} of a picture, not the shape")
        sound = None
        if raw.get("sound") is not None:
            sound = self._settings(Sound, raw["sound"], f"{at}.sound")
            if sound is not None and not InputSpec("", shape, "", sound=sound).takes_sound:
                self._note(f"{at}.sound", f"makes {list(sound.shape)} of a sound, not the shape")
            if image is not None:
                self._note(at, "is a picture and a sound")
        return InputSpec(
            self._text(raw["name"], f"{at}.name"),
            shape,
            self._one_of(raw["dtype"], f"{at}.dtype", DTYPES),
            image,
            self._range(raw.get("range"), f"{at}.range"),
            sound,
        )

    def _output(self, raw: object, at: str) -> OutputSpec | None:
        return self._made(OutputSpec, raw, at, self._output_parts)

    def _output_parts(self, raw: Mapping[str, object], at: str) -> OutputSpec:
        meaning = raw.get("meaning", "")
        if not isinstance(meaning, str):
            self._note(f"{at}.meaning", f"is {meaning!r}, not a text")
        return OutputSpec(
            self._text(raw["name"], f"{at}.name"),
            self._shape(raw["shape"], f"{at}.shape"),
            self._one_of(raw["dtype"], f"{at}.dtype", DTYPES),
            str(meaning),
        )

    def _state(self, raw: object, at: str) -> StateSpec | None:
        def parts(raw: Mapping[str, object], at: str) -> StateSpec:
            shape = self._shape(raw["shape"], f"{at}.shape")
            return StateSpec(self._text(raw["name"], f"{at}.name"), shape)

        return self._made(StateSpec, raw, at, parts)

    def _size(self, raw: object, at: str) -> SizeSpec | None:
        def parts(raw: Mapping[str, object], at: str) -> SizeSpec:
            values, places = raw["values"], raw["places"]
            if not isinstance(values, list) or not values or not _ascend(values):
                self._note(f"{at}.values", f"is {_short(values)}, not ascending sizes from 1 on")
                values = []
            if not isinstance(places, list) or not places or not all(map(_is_place, places)):
                self._note(f"{at}.places", f"is {_short(places)}, not a list of [input, axis]")
                places = []
            kept = tuple((str(name), int(axis)) for name, axis in places)
            return SizeSpec(self._text(raw["name"], f"{at}.name", _NAME), tuple(values), kept)

        return self._made(SizeSpec, raw, at, parts)

    def _check_places(self, sizes: Sequence[SizeSpec], inputs: Sequence[InputSpec]) -> None:
        """Sizes stand at axes that there are, none of a picture or a sound."""
        known = {entry.name: entry for entry in inputs}
        for size in sizes:
            for name, axis in size.places:
                entry = known.get(name)
                if entry is None or axis >= len(entry.shape):
                    self._note(f"sizes.{size.name}", f"there is no axis {axis} of input {name!r}")
                elif entry.image is not None or entry.sound is not None:
                    self._note(f"sizes.{size.name}", f"input {name!r} has one size, by its form")
                elif entry.shape[axis] not in size.values:
                    self._note(
                        f"sizes.{size.name}",
                        f"the example has {entry.shape[axis]}, none of {list(size.values)}",
                    )
        self.problems += size_problems(sizes)

    def _accept(self, raw: Mapping[str, object], at: str) -> Acceptance:
        metric = self._one_of(raw["metric"], f"{at}.metric", tuple(METRICS))
        at_least = raw["at_least"]
        if not _is_number(at_least) or not 0 <= at_least <= 1:
            self._note(f"{at}.at_least", f"is {at_least!r}, not a number from 0 to 1")
            return Acceptance(metric, 0.0)
        return Acceptance(metric, float(at_least))

    def _settings(self, kind: type[Settings], raw: object, at: str) -> Settings | None:
        """An ``Image`` or a ``Sound``."""
        parts = fields(kind)
        known = [entry.name for entry in parts]
        optional = {entry.name for entry in parts if entry.default is not MISSING}
        values = self._object(raw, at, known, optional)
        return None if values is None else self._built(kind, values, at)

    def _task(self, raw: object) -> OutputTask | None:
        kind = raw.get("kind") if isinstance(raw, dict) else None
        if not isinstance(raw, dict) or not isinstance(kind, str) or kind not in TASKS:
            self._note("task.kind", f"is {kind!r}, not one of {', '.join(TASKS)}")
            return None
        task = TASKS[kind]
        known = [entry.name for entry in fields(task)]
        optional = {entry.name for entry in fields(task) if entry.default is not MISSING}
        values = self._object(raw, "task", ("kind", *known), optional)
        if values is None:
            return None
        return self._built(task, {name: values[name] for name in known if name in values}, "task")

    def _built(self, kind: Callable[..., Made], values: dict[str, object], at: str) -> Made | None:
        tuples = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        try:
            return kind(**tuples)
        except ContractError as error:
            for problem in error.problems:
                self._note(at, problem)
        except (TypeError, ValueError) as error:
            self._note(at, str(error))
        return None

    def _made(
        self,
        kind: type[DataclassInstance],
        raw: object,
        at: str,
        parts: Callable[[Mapping[str, object], str], Made],
    ) -> Made | None:
        known = [entry.name for entry in fields(kind)]
        optional = {entry.name for entry in fields(kind) if entry.default is not MISSING}
        values = self._object(raw, at, known, optional)
        return None if values is None else parts(values, at)

    def _object(
        self, raw: object, at: str, known: Sequence[str], optional: set[str]
    ) -> dict[str, object] | None:
        if not isinstance(raw, dict):
            self._note(at, f"is {_short(raw)}, not an object")
            return None
        for name in raw:
            if name not in known:
                self._note(at, f"has a key {name!r} that is not known")
        missing = [name for name in known if name not in raw and name not in optional]
        if missing:
            self._note(at, f"lacks {', '.join(missing)}")
            return None
        return raw

    def _list(
        self, raw: object, at: str, each: Callable[[object, str], Made | None], empty: bool = False
    ) -> tuple[Made, ...]:
        if not isinstance(raw, list) or not (raw or empty):
            self._note(at, f"is {_short(raw)}, not a list with entries")
            return ()
        found = [each(item, f"{at}[{index}]") for index, item in enumerate(raw)]
        return tuple(item for item in found if item is not None)

    def _texts(self, raw: object, at: str) -> dict[str, str]:
        if not isinstance(raw, dict) or not all(isinstance(text, str) for text in raw.values()):
            self._note(at, f"is {_short(raw)}, and must map names to texts")
            return {}
        return {str(name): str(text) for name, text in raw.items()}

    def _unique(self, entries: Sequence[InputSpec | OutputSpec | SizeSpec], at: str) -> None:
        names = [entry.name for entry in entries]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self._note(at, f"has two entries of the name {name!r}")

    def _text(self, raw: object, at: str, form: re.Pattern[str] | None = None) -> str:
        if not isinstance(raw, str) or not raw or (form is not None and not form.fullmatch(raw)):
            what = "a text" if form is None else f"a text of the form {form.pattern}"
            self._note(at, f"is {_short(raw)}, not {what}")
        return str(raw)

    def _one_of(self, raw: object, at: str, known: Sequence[str]) -> str:
        if raw not in known:
            self._note(at, f"is {_short(raw)}, not one of {', '.join(known)}")
        return str(raw)

    def _shape(self, raw: object, at: str) -> tuple[int, ...]:
        if not isinstance(raw, list) or not all(type(size) is int and size > 0 for size in raw):
            self._note(at, f"is {_short(raw)}, not a list of sizes")
            return ()
        return tuple(raw)

    def _range(self, raw: object, at: str) -> tuple[float, float] | None:
        if raw is None:
            return None
        if not isinstance(raw, list) or len(raw) != 2 or not all(map(_is_number, raw)):
            self._note(at, f"is {_short(raw)}, not the smallest and the largest value")
            return None
        low, high = map(float, raw)
        if low > high:
            self._note(at, f"is {raw}, the smallest behind the largest value")
        return low, high

    def _note(self, at: str, problem: str) -> None:
        self.problems.append(f"{at}: {problem}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ascend(values: Sequence[object]) -> bool:
    sizes = [size for size in values if type(size) is int and size > 0]
    return len(sizes) == len(values) and sorted(set(sizes)) == sizes


def _is_place(raw: object) -> bool:
    return (
        isinstance(raw, list)
        and len(raw) == 2
        and isinstance(raw[0], str)
        and type(raw[1]) is int
        and raw[1] >= 0
    )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."
