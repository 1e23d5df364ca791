"""``ct.ImageType(scale=[r, g, b])``: one factor for each channel, as its documentation offers.

coremltools 9.0 multiplies (1, 3, height, width) by an array of three as numpy does, along the
width: it fails for most pictures, and scales columns instead of channels where a picture is three
pixels wide. Here the factors get the axes of the channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import coremltools as ct
import numpy as np

from lowering.errors import LoweringError

# Colour layouts that have one channel.
_GRAY = (ct.colorlayout.GRAYSCALE, ct.colorlayout.GRAYSCALE_FLOAT16)


def with_channel_scale(kind: ct.ImageType, shape: Sequence[object]) -> None:
    """Give the scale of ``kind`` the axes of an input of ``shape``, in place.

    Raises:
        LoweringError: scale or bias are no finite numbers, or not one for each channel.
    """
    channels = 1 if kind.color_layout in _GRAY else 3
    for name in ("scale", "bias"):
        given = getattr(kind, name)
        try:
            values = np.asarray(given, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            values = np.array([np.nan])
        if values.size not in (1, channels) or not np.isfinite(values).all():
            raise LoweringError(
                f"the {name} of image input {kind.name!r} does not fit its channels",
                expected=f"one finite number, or {channels}: one for each channel",
                found=repr(given),
                hint="for mean and std of each channel see lowering.Image",
            )
        if name == "bias":
            continue
        if len(set(values.tolist())) == 1:
            kind.scale = float(values[0])
            continue
        # As nested lists: coremltools asks whether it is 1, which an array does not answer.
        axes = (1,) * (len(shape) - 3)
        kind.scale = values.reshape(*axes, channels, 1, 1).tolist()
