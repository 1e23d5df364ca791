"""A model in a folder that transformers reads: with its pictures and labels. Nothing is fetched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from frontend.decoder.hf_cache import is_available
from frontend.errors import first_line
from lowering.contract.errors import ContractError
from lowering.contract.image import Crop, Image, Resize
from lowering.contract.pictures import normalised, pixels, prepared, telling_picture
from lowering.contract.tasks.base import OutputTask
from lowering.contract.tasks.classify import Classify

_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError)
# Numbers of Pillow's filters (*documented*: PIL.Image.Resampling).
_FILTERS: dict[int, Resize] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
# Two computations of (x / 255 - mean) / std in float32 part by no more.
_SAME = 1e-5
_PIXELS = "pixel_values"


Made = TypeVar("Made")


class ImageProcessor(Protocol):
    """What is read of an image processor of transformers, beside its switches ``do_...``."""

    resample: int
    image_mean: float | Sequence[float]
    image_std: float | Sequence[float]
    rescale_factor: float

    def __call__(self, picture: object, *, return_tensors: str) -> Mapping[str, object]:
        """The numbers of a picture."""


@dataclass(frozen=True)
class Checkpoint:
    """A model as ``lowering.export`` takes it.

    Attributes:
        model: the module.
        kwargs: example inputs by name.
        images: its inputs that are pictures.
        task: what its outputs are for, where the folder says so.
    """

    model: nn.Module
    kwargs: Mapping[str, Tensor]
    images: Mapping[str, Image]
    task: OutputTask | None


def is_checkpoint(path: object) -> bool:
    """Whether ``path`` is a folder of transformers."""
    return isinstance(path, str | Path) and (Path(path) / "config.json").is_file()


def read_checkpoint(folder: Path, *, top_k: int | None = None) -> Checkpoint:
    """The vision model in ``folder``, with its own processor's numbers as the contract's.

    The processor is run once beside ours: what is not the same to the last digits is refused.

    Args:
        folder: what ``save_pretrained`` of model and processor wrote.
        top_k: of a classifier, how many of the best are returned beside.

    Raises:
        ContractError: transformers is not installed or cannot read the folder, or its processor
            does something that an ``Image`` cannot say.
    """
    if not is_available():
        raise ContractError(
            "transformers is not installed, which reads this folder",
            found=str(folder),
            hint='pip install "ane-passes[zoo]"',
        )
    import transformers

    kinds = _read(folder, transformers.AutoConfig.from_pretrained).architectures or []
    kind = getattr(transformers, kinds[0], None) if kinds else None
    if kind is None:
        raise ContractError(
            "the folder does not say which class of transformers it is",
            ["architectures: " + (", ".join(kinds) or "none")],
            found=str(folder),
            hint="give a function that loads it: model.py:function",
        )
    model = _read(folder, kind.from_pretrained, dtype=torch.float32).eval()
    if model.main_input_name != _PIXELS:
        raise ContractError(
            f"a folder of transformers is exported by name where it takes {_PIXELS}",
            found=f"{kinds[0]} takes {model.main_input_name}",
            hint="give a function that returns model and inputs: model.py:function",
        )
    image = image_of_processor(_read(folder, transformers.AutoImageProcessor.from_pretrained))
    # One example of noise: values do not matter, shapes do.
    example = torch.rand(image.shape)
    return Checkpoint(model, {_PIXELS: example}, {_PIXELS: image}, _task(model, top_k))


def image_of_processor(processor: ImageProcessor) -> Image:
    """What an image processor of transformers does, as an ``Image``.

    Raises:
        ContractError: it does something else; the message says how far both are apart.
    """
    resizes, cuts = _on(processor, "do_resize"), _on(processor, "do_center_crop")
    size, cut = (dict(getattr(processor, name, None) or {}) for name in ("size", "crop_size"))
    target = cut if cuts else size
    edge = size.get("shortest_edge")
    if "height" not in target and edge is not None:
        target = {"height": edge, "width": edge}
    if "height" not in target:
        raise _unlike(processor, f"its size is {size or 'not given'}")
    crop: Crop = "center" if edge is not None or (cuts and size != cut) else "none"
    scales, norms = _on(processor, "do_rescale"), _on(processor, "do_normalize")
    image = Image(
        size=(target["height"], target["width"]),
        mean=_numbers(processor.image_mean) if norms else (0.0,),
        std=_numbers(processor.image_std) if norms else (1.0,),
        resize=_FILTERS.get(int(processor.resample), "bilinear") if resizes else "none",
        crop=crop if resizes else "none",
        edge=edge if crop == "center" and resizes else None,
        scale=float(processor.rescale_factor) if scales else 1.0,
    )
    picture = telling_picture(*image.size)
    if image.resize == "none":
        picture = picture.resize(image.size[::-1])
    theirs = np.asarray(processor(picture, return_tensors="np")[_PIXELS])
    ours = normalised(image, pixels(image, prepared(image, picture))).numpy()
    if theirs.shape != ours.shape:
        raise _unlike(processor, f"it makes {theirs.shape} of a picture, and ours {ours.shape}")
    apart = float(np.abs(theirs - ours).max())
    if apart > _SAME * max(1.0, float(np.abs(theirs).max())):
        raise _unlike(processor, f"a picture's numbers are {apart:.2g} apart from ours")
    return image


def _on(processor: object, name: str) -> bool:
    return bool(getattr(processor, name, None))


def _numbers(given: float | Sequence[float]) -> tuple[float, ...]:
    return (float(given),) if isinstance(given, int | float) else tuple(map(float, given))


def _unlike(processor: object, how: str) -> ContractError:
    return ContractError(
        f"{type(processor).__name__} does something that an image input cannot say",
        [how],
        hint="export a function that returns the model, and say the picture's form with --image",
    )


def _task(model: nn.Module, top_k: int | None) -> OutputTask | None:
    """The labels of an image classifier; those that stand there twice get their number."""
    if not type(model).__name__.endswith("ForImageClassification"):
        return None
    config: Any = model.config
    names = [text for _, text in sorted(config.id2label.items())]
    counts = Counter(names)
    labels = tuple(
        name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)
    )
    if getattr(config, "problem_type", None) == "multi_label_classification":
        return Classify(labels, top_k, "sigmoid", output="logits")
    return Classify(labels, top_k, output="logits")


def _read(folder: Path, read: Callable[..., Made], **options: object) -> Made:
    """What a ``from_pretrained`` of transformers makes of ``folder``."""
    try:
        return read(str(folder), local_files_only=True, **options)
    except _ERRORS as error:
        name = getattr(getattr(read, "__self__", None), "__name__", "from_pretrained")
        raise ContractError(
            f"transformers' {name} cannot read the folder",
            found=f"{folder}: {first_line(error)}",
            hint="check that the folder is complete",
        ) from error
