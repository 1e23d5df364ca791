"""``ane-passes export``: a model and all that is to be known of it, as a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from rich.markup import escape

from frontend.model_call import ModelCall
from lowering.cli.common import guarded, json_option, print_json, stdout_console, step
from lowering.cli.deployment_target import deployment_target_option
from lowering.cli.load_model import MODEL_HELP, load_model_call, trust_option
from lowering.cli.sizes import sizes_option
from lowering.cli.task import task_of, task_options

if TYPE_CHECKING:
    from lowering.contract.contract import Acceptance
    from lowering.contract.image import Image
    from lowering.contract.sound import Sound
    from lowering.contract.tasks.base import OutputTask

HELP = f"""Write a folder with a model and its contract: pictures, labels, precision, target.

The folder holds model.pt2, which is read and never run, and contract.json. convert, verify,
predict and plan take it, and so does every verb with a MODEL. A folder of transformers has its
pictures and labels from its own files; its processor is run once beside ours and must agree.

{MODEL_HELP}
  ./vit                    a folder that save_pretrained wrote, for models of pictures

\b
Examples:
  ane-passes export ./vit -o vit
  ane-passes export model.py:net -o net --image x --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
  ane-passes export model.py:net -o net --image x --task classify --labels labels.txt --top-k 5
  ane-passes export model.py:asr -o asr --sound x --task speech --labels letters.txt

Exit codes: 0 exported, 2 the model or the call needs attention; nothing is written then.
"""


Shape: TypeAlias = tuple[int, ...]
# Bands of the spectrograms that Whisper and most others take.
_USUAL_MELS = (80, 128)


class _Numbers(click.ParamType):
    name = "N[,N...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Numbers with commas between."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 0.5 or 0.485,0.456,0.406")


@click.command("export", help=HELP, short_help="Write a folder with a model and its contract.")
@click.argument("model_spec", metavar="MODEL")
@trust_option
@click.option("-o", "--output", required=True, metavar="FOLDER", help="Where to write it.")
@click.option("--name", help="Of the model; the folder's by default.")
@click.option("--image", metavar="INPUT", help="The input that takes pictures.")
@click.option(
    "--mean", type=_Numbers(), help="Of pixels from 0 to 1; one number, or one a channel."
)
@click.option("--std", type=_Numbers(), help="Likewise.")
@click.option("--scale", type=float, help="Of pixels before --mean; 1/255 by default.")
@click.option("--layout", type=click.Choice(("RGB", "BGR", "GRAY")), help="Order of channels.")
@click.option(
    "--resize",
    type=click.Choice(("nearest", "bilinear", "bicubic", "lanczos", "box", "none")),
    help="How pictures are resized; bilinear by default.",
)
@click.option(
    "--crop",
    type=click.Choice(("none", "center", "pad")),
    help="Stretch a picture, cut out its middle, or fill up around it.",
)
@click.option("--edge", type=int, help="Shorter side before --crop center.")
@click.option("--no-antialias", is_flag=True, help="Resize as torch's interpolate does by default.")
@click.option("--sound", metavar="INPUT", help="The input that takes sound.")
@click.option(
    "--sound-kind",
    type=click.Choice(("waveform", "whisper", "kaldi")),
    help="What becomes of it: nothing, or a log-mel spectrogram; by the input's shape by default.",
)
@click.option("--samples", type=int, help="Length of the sound in samples; by the input's shape.")
@click.option("--rate", type=int, help="Samples in a second; 16000 by default.")
@click.option("--mel-apart", is_flag=True, help="The caller computes the spectrogram.")
@sizes_option
@task_options
@deployment_target_option()
@click.option(
    "--precision",
    type=click.Choice(("float16", "float32", "safe")),
    default="float16",
    show_default=True,
    help="safe: float16 but for the operators that it would spoil; convert finds them.",
)
@click.option("--accept", metavar="METRIC=NUMBER", help="What verify asks for, such as top1=0.99.")
@click.option("--overwrite", is_flag=True, help="Replace a folder of this kind.")
@json_option
@guarded
def export(
    model_spec: str,
    trust: bool,
    output: str,
    name: str | None,
    image: str | None,
    sound: str | None,
    sound_kind: str | None,
    samples: int | None,
    rate: int | None,
    mel_apart: bool,
    sizes: tuple[tuple[str, list[int]], ...],
    deployment_target: str,
    precision: str,
    accept: str | None,
    overwrite: bool,
    as_json: bool,
    **options: object,
) -> None:
    """See ``HELP``."""
    task_given = {key: options.pop(key) for key in list(options) if key.startswith("task_")}
    with step("Loading the model"):
        loaded, images, task = _loaded(model_spec, trust, task_given)
    chosen = {key: value for key, value in options.items() if value not in (None, False)}
    if image is None and chosen:
        raise click.UsageError("--image says which input takes pictures; its form needs that.")
    if sound is None and (sound_kind or samples or rate or mel_apart):
        raise click.UsageError("--sound says which input takes sound; its form needs that.")
    with step("Exporting"):
        import lowering

        forms: dict[str, Image | Sound] = dict(images)
        if image is not None:
            forms = {image: _image(loaded, image, chosen)}
        if sound is not None:
            forms[sound] = _sound(loaded, sound, sound_kind, samples, rate, mel_apart)
        path = lowering.export(
            loaded.model,
            loaded.args,
            output,
            kwargs=loaded.kwargs,
            inputs=forms,
            task=task,
            dynamic_shapes=loaded.dynamic_shapes,
            sizes=dict(sizes),
            name=name,
            target=deployment_target,
            precision=precision,
            accept=_acceptance(accept),
            overwrite=overwrite,
        )
        contract = lowering.open_folder(path).contract
    if as_json:
        print_json({"folder": str(path), "contract": contract.to_json()})
        return
    console = stdout_console()
    for entry in contract.inputs:
        what = "numbers" if entry.image is None else f"pictures, {entry.image.describe()}"
        if entry.sound is not None:
            what = f"sound, {entry.sound.describe()}"
        shape = ", ".join(contract.shape_in_words(entry))
        console.print(escape(f"takes    {entry.name} [{shape}] {entry.dtype}: {what}"))
    for size in contract.sizes:
        console.print(escape(f"{size.name:9} {', '.join(map(str, size.values))}"))
    for out in contract.outputs:
        meaning = f": {out.meaning}" if out.meaning else ""
        console.print(escape(f"returns  {out.name} {list(out.shape)} {out.dtype}{meaning}"))
    console.print(escape(f"wrote {path}"))


def _loaded(
    model_spec: str, trust: bool, given: Mapping[str, Any]
) -> tuple[ModelCall, dict[str, Image], OutputTask | None]:
    from lowering.contract.checkpoint import is_checkpoint, read_checkpoint

    task = task_of(given)
    if not is_checkpoint(model_spec):
        return load_model_call(model_spec, trust), {}, task
    found = read_checkpoint(Path(model_spec), top_k=given["task_top_k"] if task is None else None)
    loaded = ModelCall(Path(model_spec).name, found.model, None, dict(found.kwargs))
    return loaded, dict(found.images), found.task if task is None else task


def _shapes(loaded: ModelCall, name: str, ranks: Sequence[int]) -> tuple[list[Shape], list[Shape]]:
    """Shapes of all example inputs, and those that may be the input ``name``'s."""
    from torch import nn
    from torch.utils import _pytree as pytree

    from frontend.capturing import call_arguments

    if isinstance(loaded.model, nn.Module):
        args, kwargs = call_arguments(loaded.model, loaded.args, loaded.kwargs)
    else:
        args, kwargs = loaded.model.example_inputs or ((), {})
    shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves((args, kwargs))]
    if name in kwargs:
        return shapes, [tuple(kwargs[name].shape)]
    return shapes, [shape for shape in shapes if len(shape) in ranks]


def _sound(
    loaded: ModelCall,
    name: str,
    kind: str | None,
    samples: int | None,
    rate: int | None,
    apart: bool,
) -> Sound:
    """The input of sound, of the length and bands that the model's own example has."""
    from lowering.contract.errors import ContractError
    from lowering.contract.sound import Sound

    shapes, fitting = _shapes(loaded, name, (2, 3, 4))
    changes: dict[str, Any] = {} if rate is None else {"rate": rate}
    axes = [size for size in fitting[0] if size != 1] if len(set(fitting)) == 1 else []
    if len(axes) == 1 and kind in (None, "waveform"):
        return Sound(samples or axes[0], **changes)
    if len(axes) != 2 or kind == "waveform":
        raise ContractError(
            f"how {name!r} takes sound cannot be told from the example inputs",
            [f"shapes: {', '.join(map(str, shapes))}"],
            hint="use lowering.export, with inputs={name: lowering.Sound(...)}",
        )
    known = [size for size in axes if size in _USUAL_MELS]
    mels = known[0] if len(known) == 1 else min(axes)
    frames = axes[1 - axes.index(mels)]
    changes["inside"] = not apart
    if kind == "kaldi":
        return Sound.kaldi(samples or (frames - 1) * 160 + 400, mels, **changes)
    return Sound.whisper(samples or frames * 160, mels, **changes)


def _image(loaded: ModelCall, name: str, given: dict[str, object]) -> Image:
    """The image input, of the size that the model's own example has."""
    from lowering.contract.errors import ContractError
    from lowering.contract.image import Image

    shapes, fitting = _shapes(loaded, name, (4,))
    if len(set(fitting)) != 1:
        raise ContractError(
            f"the size of the pictures of {name!r} cannot be told from the example inputs",
            [f"shapes: {', '.join(map(str, shapes))}"],
            hint="use lowering.export, with inputs={name: lowering.Image(size=...)}",
        )
    chosen: dict[str, Any] = dict(given)
    antialias = not chosen.pop("no_antialias", False)
    channels, *size = fitting[0][1:]
    if channels not in (1, 3) and size[1] in (1, 3):
        size, channels = [channels, size[0]], size[1]  # as Keras has them
    if "layout" not in chosen and channels == 1:
        chosen["layout"] = "GRAY"
    height, width = size
    return Image(size=(height, width), antialias=antialias, **chosen)


def _acceptance(text: str | None) -> Acceptance | None:
    from lowering.contract.contract import Acceptance as Accepted
    from lowering.verification.metrics import METRICS

    if text is None:
        return None
    metric, equals, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not equals or metric not in METRICS or not 0 <= value <= 1:
        raise click.UsageError(
            f"--accept is {text!r}, and takes METRIC=NUMBER from 0 to 1; metrics: "
            f"{', '.join(METRICS)}"
        )
    return Accepted(metric, value)
