"""Sampling of images at given coordinates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lowering.reference.binding import Semantics
from lowering.reference.errors import ExecutionError

# MIL's padding mode: torch's, and whether reflection is about pixel centres.
_PADDING = {
    "constant": ("zeros", False),
    "border": ("border", False),
    "reflection": ("reflection", True),
    "symmetric": ("reflection", False),
}


def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """``x (B, C, H, W)`` at ``coordinates (B, H', W', 2)``, given as (x, y)."""
    height, width = x.shape[-2:]
    sizes = torch.tensor([width, height], dtype=torch.float32)
    pixels = _to_pixels(coordinates.to(torch.float32), sizes, coordinates_mode, align_corners)
    return sample(x, pixels, sampling_mode, padding_mode, padding_value)


def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """``x (B, C, H, W)`` where ``transform_matrix (B or 1, 6)`` takes each output pixel."""
    batch, _, height, width = x.shape
    matrix = transform_matrix.reshape(-1, 2, 3).expand(batch, 2, 3)
    rows = _axis(output_height, coordinates_mode, align_corners)
    columns = _axis(output_width, coordinates_mode, align_corners)
    y, x_position = torch.meshgrid(rows, columns, indexing="ij")
    points = torch.stack([x_position, y, torch.ones_like(y)], dim=-1)
    coordinates = torch.einsum("hwk,bik->bhwi", points, matrix)
    sizes = torch.tensor([width, height], dtype=torch.float32)
    pixels = _to_pixels(coordinates, sizes, coordinates_mode, align_corners)
    return sample(x, pixels, sampling_mode, padding_mode, padding_value)


def sample(
    x: Tensor, pixels: Tensor, sampling_mode: str, padding_mode: str, padding_value: float
) -> Tensor:
    """``x (B, C, H, W)`` at ``pixels (B, H', W', 2)``, pixel numbers as (x, y)."""
    if padding_mode not in _PADDING:
        raise ExecutionError("unknown padding mode", found=padding_mode)
    mode, centres = _PADDING[padding_mode]
    sizes = torch.tensor([x.shape[-1], x.shape[-2]], dtype=torch.float32)
    if centres:
        normalized = 2 * pixels / (sizes - 1).clamp(min=1) - 1
    else:
        normalized = (2 * pixels + 1) / sizes - 1
    # grid_sample pads with zeros only; another constant is subtracted first and added back.
    shift = padding_value if padding_mode == "constant" else 0.0
    sampled = F.grid_sample(
        x - shift, normalized, mode=sampling_mode, padding_mode=mode, align_corners=centres
    )
    return sampled + shift


def _axis(count: int, mode: str, align_corners: bool) -> Tensor:
    """Coordinates of the output pixels along one axis, in the range that ``mode`` names."""
    index = torch.arange(count, dtype=torch.float32)
    if mode == "unnormalized":
        return index
    unit = index / max(1, count - 1) if align_corners else (index + 0.5) / count
    return unit if mode == "normalized_zero_to_one" else 2 * unit - 1


def _to_pixels(coordinates: Tensor, sizes: Tensor, mode: str, align_corners: bool) -> Tensor:
    if mode == "unnormalized":
        return coordinates
    if mode == "normalized_minus_one_to_one":
        coordinates = (coordinates + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise ExecutionError("unknown coordinates mode", found=mode)
    return coordinates * (sizes - 1) if align_corners else coordinates * sizes - 0.5


TABLE: dict[str, Semantics] = {"affine": affine, "resample": resample}
