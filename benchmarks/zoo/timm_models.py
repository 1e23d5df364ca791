"""Models of timm, torchvision and ultralytics, as they are named there."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.zoo.entry import Entry, image
from benchmarks.zoo.torchvision_python import importable_torchvision


def _timm(name: str, size: int = 224, **options: Any) -> Entry:
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


def _segmentation(name: str, size: int = 224) -> Entry:
    def build() -> nn.Module:
        with importable_torchvision():
            from torchvision import models
        return models.get_model(name, weights=None, weights_backbone=None)

    return Entry(f"torchvision:{name}", build, image(size, name="input"), ("torchvision",))


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
    "mobilenetv4_conv_small",
    "repvgg_a0",
    "mobileone_s0",
    "res2net50_26w_4s",
    "convnext_tiny",
    "fastvit_t8",
    "mambaout_femto",
    "tiny_vit_5m_224",
    "efficientvit_b0",
    "vit_small_patch16_224",
    "eva02_tiny_patch14_224",
    "xcit_nano_12_p16_224",
    "crossvit_9_240",
    "mixer_s16_224",
    "poolformerv2_s12",
    "swin_tiny_patch4_window7_224",
    "maxvit_rmlp_pico_rw_256",
    "mvitv2_tiny",
    "botnet26t_256",
    "halonet26t",
)
_SIZES = {
    "crossvit_9_240": 240,
    "maxvit_rmlp_pico_rw_256": 256,
    "botnet26t_256": 256,
    "halonet26t": 256,
}

TIMM: tuple[Entry, ...] = (
    *(_timm(name, _SIZES.get(name, 224)) for name in _NAMES),
    _torchvision("mobilenet_v3_small"),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("swin_v2_t", 256),
    _segmentation("deeplabv3_mobilenet_v3_large"),
    _yolo("yolov8n"),
    _yolo("yolo11n"),
    _yolo("yolov8n-seg"),
    _yolo("yolov10n"),
)
