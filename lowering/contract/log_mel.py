"""The log-mel spectrogram as a program computes it: two convolutions that hold in float16."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowering.contract.sound import Sound
from lowering.contract.sounds import VARIANCE_FLOOR, log_unit, mel_bands, window_of

# A full-scale tone comes to this at most in a frame's transform: far from float16's end, and what
# is 120 dB less loud is still a normal number.
_LOUDEST = 2.0**8
# A frame's strongest frequency is brought to this before squares are summed: 2^14 and its sums lie
# below 65504. What is 80 dB weaker has fewer digits, as numbers below 2^-14 have in float16, and
# what is 110 dB weaker is taken for that.
_STRONGEST = 2.0**7
_TINY, _LEAST = 2.0**-14, 2.0**-24


class LogMel(nn.Module):
    """What a model takes, (1, mels, frames), from a waveform (1, samples).

    Powers of speech span more than float16 has: each frame is divided by its strongest frequency
    before it is squared, and the logarithm of that is added again after.
    """

    transform: Tensor
    bands: Tensor

    def __init__(self, sound: Sound) -> None:
        super().__init__()
        self.sound = sound
        if sound.mels is None:
            return
        weights = mel_bands(sound)
        used = np.flatnonzero(weights.any(0))
        length = sound.length
        angles = 2 * np.pi * np.outer(used, np.arange(length)) / sound.fft
        waves = np.concatenate([np.cos(angles), np.sin(angles)]) * window_of(sound)
        # What is done to a frame first is linear, and so part of the transform.
        if sound.preemphasis:
            before = np.eye(length) - sound.preemphasis * np.eye(length, k=-1)
            before[0, 0] -= sound.preemphasis
            waves = waves @ before
        if sound.remove_mean:
            waves = waves - waves.mean(-1, keepdims=True)
        self._gain = _LOUDEST / float(np.abs(waves).sum(-1).max())
        self._height = 1.0 / float(max(weights.sum(-1).max(), 1e-12))
        # Where two frames are of the size of zero, their logarithm is never looked at.
        self.register_buffer(
            "transform", torch.from_numpy(waves * self._gain)[:, None].float(), persistent=False
        )
        self.register_buffer(
            "bands",
            torch.from_numpy(weights[:, used] * self._height)[..., None].float(),
            persistent=False,
        )

    def forward(self, samples: Tensor) -> Tensor:
        """The features."""
        sound = self.sound
        if sound.normalize:
            samples = _normalized(samples, sound.gain)
        elif sound.mels is None and sound.gain != 1.0:
            samples = samples * sound.gain
        if sound.mels is None:
            return samples
        x = samples[:, None]
        if sound.center:
            x = F.pad(x, (sound.fft // 2, sound.fft // 2), mode="reflect")
        found = F.conv1d(x, self.transform, stride=sound.hop)[..., : sound.frames]
        strongest = found.abs().amax(1, keepdim=True).clamp(min=_TINY)
        squares = (found / strongest * _STRONGEST) ** 2
        half = squares.shape[1] // 2
        power = F.conv1d(squares[:, :half] + squares[:, half:], self.bands)
        unit = log_unit(sound)
        log = torch.log(power.clamp(min=_LEAST)) * (1 / unit)
        log = log + (torch.log(strongest) * (2 / unit) + self._offset(unit))
        log = log.clamp(min=float(np.log(sound.floor)) / unit)
        if sound.below_peak is not None:
            log = torch.maximum(log, log.amax((1, 2), keepdim=True) - sound.below_peak)
        return (log + sound.shift) * sound.factor

    def _offset(self, unit: float) -> float:
        """What the factors of both convolutions have added to the logarithm, taken off."""
        gain = 1.0 if self.sound.normalize else self.sound.gain
        factor = 2 * np.log(gain / (self._gain * _STRONGEST)) - np.log(self._height)
        return float(factor / unit)


def _normalized(samples: Tensor, gain: float) -> Tensor:
    """Mean 0, variance 1; taken of numbers near one, so that no square of float16 vanishes."""
    largest = samples.abs().amax(-1, keepdim=True).clamp(min=_TINY)
    near_one = samples / largest
    centred = near_one - near_one.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    floor = (VARIANCE_FLOOR**0.5 / gain) / largest
    return centred / torch.sqrt(variance + floor * floor)
