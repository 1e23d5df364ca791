"""Resizing of the innermost dimensions, and crops of boxes.

All samplers are separable: a grid of positions per axis, then interpolation along one axis after
the other. The sampling modes are those that MIL documents at ``resize_bilinear``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lowering.reference.binding import Ints, Semantics
from lowering.reference.errors import ExecutionError
from lowering.reference.semantics.picking import picked


def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: float = 1.0, scale_factor_width: float = 1.0
) -> Tensor:
    """``x (..., H, W)`` enlarged by repeating elements."""
    height, width = x.shape[-2:]
    return resize_nearest_neighbor(
        x, int(height * scale_factor_height), int(width * scale_factor_width)
    )


def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """``x (..., H, W)`` brought to a size by picking elements."""
    target = (target_size_height, target_size_width)
    # By powers of two torch's positions are exact; its kernel is one pass.
    doubled = all(_is_power_of_two(*pair) for pair in zip(target, x.shape[-2:], strict=True))
    if doubled and x.ndim == 4 and x.dtype.is_floating_point:
        return F.interpolate(x, target)
    return _nearest(_nearest(x, -2, target_size_height), -1, target_size_width)


def _is_power_of_two(count: int, size: int) -> bool:
    factor, rest = divmod(count, size)
    return rest == 0 and factor & (factor - 1) == 0


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1.0,
    scale_factor_width: float = 1.0,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """``x (..., H, W)`` enlarged linearly."""
    if half_pixel_centers is None:
        half_pixel_centers = not align_corners
    if align_corners:
        mode = "STRICT_ALIGN_CORNERS"
    else:
        mode = "UNALIGN_CORNERS" if half_pixel_centers else "DEFAULT"
    for axis, scale in ((-2, scale_factor_height), (-1, scale_factor_width)):
        x = _linear(x, axis, int(x.shape[axis] * scale), mode)
    return x


def resize_bilinear(
    x: Tensor,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """``x (..., H, W)`` brought to a size linearly."""
    return _linear(
        _linear(x, -2, target_size_height, sampling_mode), -1, target_size_width, sampling_mode
    )


def resize(
    x: Tensor,
    shape: Ints,
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last ``resized_dims`` dimensions of ``x`` brought to the last sizes of ``shape``.

    A size of 0 leaves its dimension as it is.
    """
    for axis in range(-resized_dims, 0):
        size = shape[axis] or x.shape[axis]
        if interpolation_mode == "NEAREST_NEIGHBOR":
            x = _nearest(x, axis, size, sampling_mode)
        else:
            x = _linear(x, axis, size, sampling_mode)
    return x


def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Ints | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """Boxes of ``x (B, C, H, W)``, each brought to the target size linearly.

    iOS15/16: ``roi (N, 1, 4 or 5, 1, 1)`` gives (N, B, C, H', W'), or (N, 1, C, H', W') when its
    first entry picks the image. iOS17: ``boxes (N, 4)`` and ``box_indices (N)`` give
    (N, C, H', W').
    """
    if boxes is not None:
        picks = box_indices or tuple(range(boxes.shape[0]))
        images = [(x[i : i + 1], box) for i, box in zip(picks, boxes, strict=True)]
    else:
        assert roi is not None
        rows = roi.reshape(roi.shape[0], -1)
        with_index = rows.shape[1] == 5
        images = [
            (x[int(row[0]) : int(row[0]) + 1], row[1:]) if with_index else (x, row) for row in rows
        ]
    height, width = x.shape[-2:]
    crops = []
    for image, box in images:
        top, left, bottom, right = _corners(box, box_coordinate_mode)
        extents = []
        for first, last, size in ((top, bottom, height), (left, right, width)):
            scale = spatial_scale * ((size - 1) if normalized_coordinates else 1)
            extents.append((first * scale, last * scale))
        patch = _crop(image, -2, target_height, *extents[0], sampling_mode, pad_value)
        crops.append(_crop(patch, -1, target_width, *extents[1], sampling_mode, pad_value))
    return torch.cat(crops) if boxes is not None else torch.stack(crops)


def _corners(box: Tensor, mode: str) -> tuple[float, float, float, float]:
    """Top, left, bottom, right."""
    a, b, c, d = (float(item) for item in box)
    if mode.endswith("WIDTH_FIRST"):
        a, b, c, d = b, a, d, c
    if mode.startswith("CENTER_SIZE"):
        # (a, b) is the centre, (c, d) the size; a box of size 1 covers one pixel.
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return a, b, c, d


def grid(size: int, count: int, mode: str) -> Tensor:
    """``count`` positions on an axis of ``size`` elements, within ``[0, size - 1]``."""
    index = torch.arange(count, dtype=torch.float32)
    if mode == "DEFAULT":
        position = index * (size / count)
    elif mode == "UNALIGN_CORNERS":
        position = (index + 0.5) * (size / count) - 0.5
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if count == 1:
            centred = mode == "ALIGN_CORNERS"
            return torch.full((1,), (size - 1) / 2 if centred else 0.0)
        position = index * ((size - 1) / (count - 1))
    elif mode == "OFFSET_CORNERS":
        position = (index + 0.5) * (max(1, size - 1) / count)
    else:
        raise ExecutionError("unknown sampling mode", found=mode)
    return position.clamp(0, size - 1)


def _box_grid(first: float, last: float, count: int, mode: str) -> Tensor:
    """As :func:`grid`, between two positions and without limits."""
    index = torch.arange(count, dtype=torch.float32)
    extent = last - first
    if mode == "DEFAULT":
        return first + index * ((extent - extent / count) / max(1, count - 1))
    if mode == "UNALIGN_CORNERS":
        return first + (index + 0.5) * (extent / count) - 0.5
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if count == 1:
            centred = mode == "ALIGN_CORNERS"
            return torch.full((1,), (first + last) / 2 if centred else first)
        return first + index * (extent / (count - 1))
    if mode == "OFFSET_CORNERS":
        return first + (index + 0.5) * (max(1.0, extent) / count)
    raise ExecutionError("unknown sampling mode", found=mode)


def _crop(
    x: Tensor, axis: int, count: int, first: float, last: float, mode: str, pad_value: float
) -> Tensor:
    size = x.shape[axis]
    position = _box_grid(first, last, count, mode)
    outside = (position < 0) | (position > size - 1)
    y = _interpolate(x, axis, position.clamp(0, size - 1))
    return torch.where(_along(outside, axis), torch.full((), pad_value, dtype=x.dtype), y)


def _linear(x: Tensor, axis: int, count: int, mode: str) -> Tensor:
    size = x.shape[axis]
    return (
        x
        if size == count and mode != "OFFSET_CORNERS"
        else _interpolate(x, axis, grid(size, count, mode))
    )


def _interpolate(x: Tensor, axis: int, position: Tensor) -> Tensor:
    low = position.floor()
    fraction = _along(position - low, axis)
    low = low.to(torch.int64)
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    start = picked(x, axis, low)
    if not x.dtype.is_floating_point:
        return (start + (picked(x, axis, high) - start) * fraction).to(x.dtype)
    return picked(x, axis, high).sub_(start).mul_(fraction).add_(start)


def _nearest(x: Tensor, axis: int, count: int, mode: str | None = None) -> Tensor:
    """The element nearest to each position of the grid; without ``mode`` the one before it."""
    size = x.shape[axis]
    if mode is None:
        places = torch.arange(count) * size // count
    else:
        # Halfway positions go down, so that whole factors repeat elements evenly (*assumed*).
        places = torch.ceil(grid(size, count, mode) - 0.5).to(torch.int64)
    return x if size == count and mode is None else picked(x, axis, places)


def _along(vector: Tensor, axis: int) -> Tensor:
    """``vector`` shaped to broadcast along ``axis``, given from the end."""
    return vector.reshape(-1, *[1] * (-axis - 1))


TABLE: dict[str, Semantics] = {
    "crop_resize": crop_resize,
    "resize": resize,
    "resize_bilinear": resize_bilinear,
    "resize_nearest_neighbor": resize_nearest_neighbor,
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}
