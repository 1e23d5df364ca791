"""What the lines of the checklist look at, each thing made once and only where it is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowering.contract.composed import PlainTruth, as_image_input
from lowering.contract.contract import ModelContract
from lowering.contract.converting import convert_folder
from lowering.contract.folder import ModelFolder
from lowering.contract.pictures import Picture, pixels, prepared, telling_picture
from lowering.contract.verifying import verify_folder
from lowering.package.saving import package_path
from lowering.planner.placement import plan
from lowering.planner.result import Plan
from lowering.reference import load
from lowering.reference.model import LoadedModel
from lowering.reference.watch import Watch
from lowering.verification.result import Verification


class Shipped:
    """A folder with its package.

    Args:
        folder: the model and its contract.
        package: the path of its package; by default that of the model's name beside the folder,
            or in it, else one is converted.
        pictures: to verify on.
        chip: to plan for.
        planned: a compute plan that Core ML wrote on a Mac.
    """

    def __init__(
        self,
        folder: ModelFolder,
        package: Path | None = None,
        pictures: Sequence[Picture] = (),
        chip: str = "M4",
        planned: Path | None = None,
    ) -> None:
        self.folder, self.pictures, self.chip, self.planned = folder, pictures, chip, planned
        self.path = package or self._found()

    @property
    def contract(self) -> ModelContract:
        """The contract."""
        return self.folder.contract

    @property
    def package_word(self) -> str:
        """The package's path, or what stands for it in commands."""
        return str(self.path) if self.path is not None else f"{self.contract.name}.mlpackage"

    def _found(self) -> Path | None:
        name = f"{self.contract.name}.mlpackage"
        places = (self.folder.path.parent / name, self.folder.path / name)
        return next((place for place in places if place.is_dir()), None)

    @cached_property
    def package(self) -> Any:
        """What the interpreter loads."""
        if self.path is not None:
            return package_path(self.path)
        return convert_folder(self.folder, skip_model_load=True)

    @cached_property
    def model(self) -> LoadedModel:
        """The package, loaded."""
        return load(self.package)

    @cached_property
    def verification(self) -> Verification:
        """The package against the model, on pictures from their files."""
        accept = self.contract.accept
        return verify_folder(
            self.package,
            self.folder,
            pictures=self.pictures,
            metric=None if accept is None else accept.metric,
            locate=False,
        )

    @cached_property
    def plan(self) -> Plan:
        """Where it would run, predicted."""
        return plan(self.package, chip=self.chip)

    @cached_property
    def calls(self) -> list[dict[str, Tensor]]:
        """Inputs that differ: the example's, others of the same form, black and white pictures."""
        example = self.folder.example()
        generator = torch.Generator().manual_seed(0)
        found = [example]
        for number in range(2):
            call = {}
            for name, value in example.items():
                image = self.contract.images.get(name)
                if image is not None:
                    values = torch.full(image.shape, 255.0 * number)
                    call[name] = as_image_input(image, values)
                elif value.is_floating_point():
                    call[name] = torch.randn(value.shape, generator=generator)
                else:
                    order = torch.randperm(value.numel(), generator=generator)
                    call[name] = value.flatten()[order].reshape(value.shape)
            found.append(call)
        for name, image in self.contract.images.items():
            if image.resize != "none":
                values = pixels(image, prepared(image, telling_picture(*image.size)))
                found.append({**example, name: as_image_input(image, values)})
        return found

    @cached_property
    def results(self) -> list[list[dict[str, Tensor]]]:
        """What the model returns for each of :attr:`calls`, twice."""
        truth = PlainTruth(self.folder.program, self.contract)
        with torch.no_grad():
            return [[truth(**call) for _ in range(2)] for call in self.calls]

    @cached_property
    def watched(self) -> Watch:
        """Numbers that are none, or beyond float16, on pictures of one colour and a telling one."""
        watch = Watch()
        for feed in self._feeds():
            self.model.run(feed, self.model.make_state(), watch)
        return watch

    def _feeds(self) -> list[dict[str, object]]:
        import PIL.Image

        feeds: list[dict[str, object]] = []
        for number, call in enumerate(self.calls[1:]):
            feed: dict[str, object] = {}
            for name, value in call.items():
                image = self.contract.images.get(name)
                if image is None:
                    feed[name] = value.numpy()
                elif number < 2:
                    colour = (255 * number,) * (1 if image.mode == "L" else 3)
                    fill = colour[0] if image.mode == "L" else colour
                    feed[name] = PIL.Image.new(image.mode, image.size[::-1], fill)
                else:
                    feed[name] = prepared(image, telling_picture(*image.size))
            feeds.append(feed)
        return feeds
