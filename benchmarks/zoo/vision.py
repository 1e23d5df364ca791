"""Vision models of transformers: classification, detection, segmentation, depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from benchmarks.zoo.entry import Entry, hf, image

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_VIT: dict[str, Any] = {"num_hidden_layers": 2}
# Four stages of one block each: what changes between stages is in, their depth is not.
_STAGES: dict[str, Any] = {"depths": [1, 1, 1, 1]}
_SWIN: dict[str, Any] = {"depths": [2, 1, 1, 1], "embed_dim": 96, "num_heads": [3, 6, 12, 24]}
# A ResNet backbone without a download.
_BACKBONE: dict[str, Any] = {
    "use_timm_backbone": False,
    "backbone": None,
    "use_pretrained_backbone": False,
}
_DETR: dict[str, Any] = {
    **_BACKBONE,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_queries": 50,
}


def _resnet_backbone(*out_features: str) -> PretrainedConfig:
    from transformers import ResNetConfig

    return ResNetConfig(depths=[1, 1, 1, 1], out_features=list(out_features))


def detr(name: str, model: str, *out_features: str, size: int = 320, **options: object) -> Entry:
    """A detector on a small ResNet."""

    def build() -> nn.Module:
        found = {**_DETR, **options, "backbone_config": _resnet_backbone(*out_features)}
        return hf(name, model, image(size), **found).build()

    return Entry(name, build, image(size), ("transformers",))


VISION: tuple[Entry, ...] = (
    hf("vit", "ViTForImageClassification", image(), **_VIT),
    hf("beit", "BeitModel", image(), **_VIT, use_relative_position_bias=True),
    hf("dinov2", "Dinov2Model", image(), **_VIT, image_size=224, patch_size=14),
    hf("clip-vision", "CLIPVisionModel", image(), **_VIT),
    hf(
        "sam-vision",
        "SamVisionModel",
        image(512),
        **_VIT,
        image_size=512,
        window_size=14,
        initializer_range=0.02,  # the default is 1e-10
        global_attn_indexes=[1],
    ),
    hf("swin", "SwinModel", image(), **_SWIN),
    hf(
        "swin2sr",
        "Swin2SRForImageSuperResolution",
        image(64),
        depths=[2],
        num_heads=[6],
        embed_dim=96,
        window_size=8,
        upscale=2,
    ),
    hf("hiera", "HieraModel", image(), depths=[1, 1, 1, 1]),
    hf("segformer", "SegformerForSemanticSegmentation", image(256), **_STAGES),
    hf("convnext", "ConvNextModel", image(), **_STAGES),
    hf("mobilenet-v2", "MobileNetV2ForImageClassification", image()),
    # The default of 0.02 shrinks the signal to what float16 has no digits for.
    hf("mobilevit", "MobileViTModel", image(256), initializer_range=0.1),
    hf(
        "depth-anything",
        "DepthAnythingForDepthEstimation",
        image(252),
        backbone_config={
            "model_type": "dinov2",
            "num_hidden_layers": 4,
            "hidden_size": 384,
            "num_attention_heads": 6,
            "out_indices": [1, 2, 3, 4],
            "image_size": 252,
            "reshape_hidden_states": False,
            "apply_layernorm": True,
        },
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
    ),
    detr("detr", "DetrForObjectDetection", "stage4"),
    hf("owlvit-vision", "OwlViTVisionModel", image(), **_VIT, image_size=224, patch_size=16),
)
