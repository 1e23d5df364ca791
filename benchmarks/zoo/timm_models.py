"""Models of timm, torchvision and ultralytics, as they are named there."""

from __future__ import annotations

from torch import nn

from benchmarks.zoo.entry import Entry, image
from benchmarks.zoo.torchvision_python import importable_torchvision


def _timm(name: str, size: int = 224, **options: object) -> Entry:
    def build() -> nn.Module:
        with importable_torchvision():
            import timm
        return timm.create_model(name, pretrained=False, **options)

    return Entry(f"timm:{name}", build, image(size, name="x"), ("timm", "torchvision"))


def _torchvision(name: str, size: int = 224) -> Entry:
    def build() -> nn.Module:
        with importable_torchvision():
            from torchvision import models
        return models.get_model(name, weights=None)

    return Entry(f"torchvision:{name}", build, image(size, name="x"), ("torchvision",))


def _yolo(name: str, size: int = 320) -> Entry:
    def build() -> nn.Module:
        with importable_torchvision():
            from ultralytics import YOLO
        model = YOLO(f"{name}.yaml", verbose=False).model
        assert isinstance(model, nn.Module)
        return model

    return Entry(f"ultralytics:{name}", build, image(size, name="x"), ("ultralytics",))


_NAMES: tuple[str, ...] = (
    "resnet50",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "mobileone_s0",
    "convnext_tiny",
    "fastvit_t8",
    "mambaout_femto",
    "vit_small_patch16_224",
    "xcit_nano_12_p16_224",
    "mixer_s16_224",
    "swin_tiny_patch4_window7_224",
)

TIMM: tuple[Entry, ...] = (
    *(_timm(name) for name in _NAMES),
    _torchvision("mobilenet_v3_small"),
    _torchvision("shufflenet_v2_x0_5"),
    _yolo("yolov8n"),
    _yolo("yolo11n"),
)
