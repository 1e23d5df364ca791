"""A package against the folder of its contract, from the same raw pictures on both sides."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from lowering.contract.composed import as_image_input
from lowering.contract.contract import InputSpec, ModelContract
from lowering.contract.converting import digest_in
from lowering.contract.errors import ContractError, PictureError, SoundError
from lowering.contract.folder import ModelFolder, open_folder
from lowering.contract.originals import original_of
from lowering.contract.pictures import Picture, picture_files, pixels, prepared, telling_picture
from lowering.contract.reading import package_contract
from lowering.contract.size_spec import combinations, resized
from lowering.contract.sounds import SoundLike, of_input, samples_of, sound_files, telling_sound
from lowering.reference import ModelLike, load
from lowering.reference.io import Feature
from lowering.reference.model import LoadedModel
from lowering.verification.looks import Look, PictureLook, of_numbers
from lowering.verification.metrics import AT_LEAST, Metric
from lowering.verification.original import Original
from lowering.verification.parity import Thresholds
from lowering.verification.result import Verification
from lowering.verification.verifier import verify
from passes.base import Pass

if TYPE_CHECKING:
    import PIL.Image


class OtherContractWarning(UserWarning):
    """A package was made from another contract than it is used with."""


@dataclass(frozen=True)
class _Shown:
    """A picture by its name, as torch and as the package take it, of several inputs the first; or
    a sound.
    """

    name: str
    torch: PIL.Image.Image | None = None
    package: PIL.Image.Image | None = None

    def look(self, torch: Look, package: Look) -> PictureLook:
        """What both made of it, with the picture."""
        return PictureLook(
            self.name, replace(torch, picture=self.torch), replace(package, picture=self.package)
        )


def verify_folder(
    package: ModelLike,
    folder: ModelFolder | str | os.PathLike[str],
    *,
    pictures: Sequence[Picture] = (),
    metric: str | Metric | None = None,
    at_least: float | None = None,
    sounds: Sequence[SoundLike] = (),
    precision: str = "fp16",
    thresholds: Thresholds | None = None,
    known_passes: Sequence[type[Pass]] = (),
    locate: bool = True,
    inputs: Mapping[str, object] | None = None,
) -> Verification:
    """Run a package and its contract's model on the same pictures, and compare.

    Each picture goes two ways from its file: through PIL, as the contract says, and plain formulas
    in torch; and as the package's own contract says into the package, in the interpreter. One more
    picture is looked at whose colours, edges and noise show every difference. Beside the outputs,
    the first product of the pixels is compared, which wrong numbers cannot hide from. A model of
    numbers alone is run on its example at every combination of the contract's sizes.

    Args:
        package: an MLModel, or the path of a ``.mlpackage``.
        folder: what ``lowering.export`` wrote.
        pictures: files, folders of them, or images of PIL; for a model with one image input.
        sounds: WAV files, folders of them, or samples; for a model with an input of sound. Silence
            and a sound on which all spectrograms differ are always among them.
        metric: as for ``verify``; the contract's by default.
        at_least: what its mean must reach.
        precision: how the package is computed.
        thresholds: what is close enough.
        known_passes: classes of your own passes that the package may name.
        locate: on failure, look for the operator.
        inputs: the inputs that are no pictures, by name; the program's own by default.

    Raises:
        ContractError: folder and package do not belong together.
        PictureError, SoundError: a picture or a sound cannot be read.
        VerificationError: package and model do not belong together.

    Warns:
        OtherContractWarning: the package was made from another contract.
    """
    if not isinstance(folder, ModelFolder):
        folder = open_folder(folder)
    contract = folder.contract
    model = load(package, precision=precision)
    check_package(model, contract)
    original = original_of(folder, model.metadata, known_passes).with_inputs(inputs or {})
    if contract.sounds:
        _refuse_pictures(contract, pictures)
        steps, shown = _sound_steps(original, contract, sounds)
    else:
        _refuse_sounds(contract, sounds)
        steps, shown = _steps(original, contract, _own_contract(model), pictures)
    looks: list[PictureLook] = []

    def look(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
        of = of_numbers if contract.task is None else contract.task.looks
        looks.append(shown[len(looks)].look(*of(ours, theirs)))

    accept = contract.accept
    if metric is None and accept is not None:
        metric, at_least = accept.metric, accept.at_least if at_least is None else at_least
    if isinstance(metric, str) and contract.task is not None:
        metric = contract.task.metrics().get(metric, metric)
    found = verify(
        package,
        original,
        thresholds=thresholds,
        precision=precision,
        locate=locate,
        steps=steps,
        metric=metric,
        at_least=AT_LEAST if at_least is None else at_least,
        observe=look if shown else None,
    )
    return replace(found, labels=tuple(item.name for item in shown), pictures=tuple(looks))


def check_package(model: LoadedModel, contract: ModelContract) -> None:
    """Warn of a package that was made from another contract, and refuse one that cannot be its.

    Raises:
        ContractError: inputs are others; all differences at once.
    """
    problems = interface_problems(model, contract)
    if problems:
        raise ContractError(
            "the package is none of this contract",
            problems,
            found=model.label,
            hint="convert the folder again",
        )
    digest = digest_in(model.metadata)
    if digest is not None and digest != contract.digest():
        warnings.warn(
            f"{model.label} was made from another contract than {contract.name!r} has now; "
            "convert the folder again",
            OtherContractWarning,
            stacklevel=3,
        )


def interface_problems(model: LoadedModel, contract: ModelContract) -> list[str]:
    """How a package's inputs differ from what a contract says, as sentences."""
    problems = [
        f"inputs: the package lacks {entry.name!r}"
        for entry in contract.inputs
        if entry.name not in model.inputs
    ]
    known = {entry.name for entry in contract.inputs}
    problems += [f"inputs: the package takes {n!r} too" for n in model.inputs if n not in known]
    varying = {name for size in contract.sizes for name, _ in size.places if len(size.values) > 1}
    for entry in contract.inputs:
        if entry.name in model.inputs:
            found = _problem(model.inputs[entry.name], entry, entry.name in varying)
            problems += [f"inputs.{entry.name}: {found}"] if found else []
    return problems


def _problem(feature: Feature, entry: InputSpec, varies: bool) -> str:
    """How an input of a package differs from what a contract says of it, ``""`` for not at all."""
    image = feature.image
    if (image is None) != (entry.image is None):
        return "the package takes " + ("numbers, no picture" if image is None else "a picture")
    if image is not None and entry.image is not None:
        size = (image.height, image.width)
        if size != entry.image.size:
            return (
                f"the package takes pictures of height and width {size}, and the contract says "
                f"{entry.image.size}"
            )
        return ""
    shape = feature.default_shape
    ranges = any(low != high for low, high in feature.ranges or ())
    if not shape or ranges or feature.enumerated or varies or entry.sound is not None:
        return ""
    wanted = tuple(entry.shape)
    if wanted and shape != wanted:  # a single number has one axis in a package
        return f"the package takes {list(shape)}, and the contract says {list(wanted)}"
    return ""


def _own_contract(model: LoadedModel) -> ModelContract | None:
    return package_contract(model.metadata, model.label)


def _steps(
    original: Original,
    contract: ModelContract,
    own: ModelContract | None,
    pictures: Sequence[Picture],
) -> tuple[list[Original], list[_Shown]]:
    """The original on each picture, and each as both sides take it."""
    images = contract.images
    if not images:
        _refuse_pictures(contract, pictures)
        if not contract.sizes:
            return [original], []
        cases = list(combinations(contract.sizes))
        labels = [", ".join(f"{name}={size}" for name, size in case.items()) for case in cases]
        calls = [resized(original.inputs(), contract.sizes, case) for case in cases]
        steps = [original.with_inputs(call) for call in calls]
        return steps, [_Shown(label) for label in labels]
    theirs = {name: (own.images if own else images).get(name, images[name]) for name in images}
    # Only resizing brings the telling picture to the model's size.
    resizes = all(image.resize != "none" for image in [*images.values(), *theirs.values()])
    given = list(_listed(pictures))
    if not resizes and not given:
        raise PictureError(
            "pictures are needed: the contract does not say how one is resized",
            hint="give pictures of the model's size",
        )
    named = [(_name(picture), picture) for picture in given]
    if resizes:
        size = next(iter(images.values())).size
        named.append(("a picture that shows every difference", telling_picture(*size)))
    steps, shown = [], []
    for label, picture in named:
        arrays: dict[str, Tensor] = {}
        handed: dict[str, PIL.Image.Image] = {}
        one: list[tuple[PIL.Image.Image, PIL.Image.Image]] = []
        for name, image in images.items():
            seen = prepared(image, picture)
            arrays[name] = as_image_input(image, pixels(image, seen))
            handed[name] = prepared(theirs[name], picture)
            one.append((seen, handed[name]))
        steps.append(replace(original.with_inputs(arrays), images=handed))
        shown.append(_Shown(label, *one[0]))
    return steps, shown


def _sound_steps(
    original: Original, contract: ModelContract, sounds: Sequence[SoundLike]
) -> tuple[list[Original], list[_Shown]]:
    """The original on each sound, on silence and on one that tells spectrograms apart."""
    named: list[tuple[str, SoundLike | None]] = []
    for each in sounds:
        if isinstance(each, str | os.PathLike):
            named += [(file.name, file) for file in sound_files([each])]
        else:
            named.append(("samples", each))
    named += [("a sound that shows every difference", None), ("silence", np.zeros(1))]
    steps = []
    for _, given in named:
        arrays: dict[str, Tensor] = {}
        for name, entry in contract.sounds.items():
            telling = telling_sound(entry.form.samples, entry.form.rate)
            samples = samples_of(entry.form, telling if given is None else given)
            arrays[name] = of_input(entry, samples)
        steps.append(original.with_inputs(arrays))
    return steps, [_Shown(name) for name, _ in named]


def _refuse_pictures(contract: ModelContract, pictures: Sequence[Picture]) -> None:
    if pictures:
        raise PictureError(
            "the model takes no pictures",
            expected="an input with an image in the contract",
            found=", ".join(entry.name for entry in contract.inputs),
        )


def _refuse_sounds(contract: ModelContract, sounds: Sequence[SoundLike]) -> None:
    if sounds:
        raise SoundError(
            "the model takes no sounds",
            expected="an input with a sound in the contract",
            found=", ".join(entry.name for entry in contract.inputs),
        )


def _listed(pictures: Sequence[Picture]) -> Iterator[Picture]:
    for picture in pictures:
        if isinstance(picture, str | os.PathLike):
            yield from picture_files([picture])
        else:
            yield picture


def _name(picture: Picture) -> str:
    return os.path.basename(picture) if isinstance(picture, str | os.PathLike) else "an image"
