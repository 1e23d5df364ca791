"""From a sound in a file to the numbers that a model takes, by the plain formulas."""

from __future__ import annotations

import functools
import os
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lowering.contract.contract import InputSpec
from lowering.contract.errors import SoundError
from lowering.contract.sound import MelScale, Sound

Array: TypeAlias = npt.NDArray[np.floating]
# A file, or its samples from -1 to 1.
SoundLike: TypeAlias = "str | os.PathLike[str] | Array | Tensor"

# Constants of the two scales (*documented*: librosa.convert.hz_to_mel).
_LINEAR, _KNEE, _STEP = 200.0 / 3, 1000.0, np.log(6.4) / 27
_HTK_FACTOR, _HTK_KNEE = 2595.0, 700.0
# What is added to a waveform's variance (*documented*: Wav2Vec2FeatureExtractor).
VARIANCE_FLOOR = 1e-7
_STEPS = 2**15
_POVEY = 0.85  # the power of Hann's window that is Povey's


def sound_files(given: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """The WAV files among ``given``, and those in folders among them, sorted.

    Raises:
        SoundError: a folder has none.
    """
    for item in given:
        path = Path(item)
        if not path.is_dir():
            yield path
            continue
        inside = [file for file in sorted(path.iterdir()) if file.suffix.lower() == ".wav"]
        if not inside:
            raise SoundError("the folder holds no WAV files", found=str(path))
        yield from inside


def samples_of(sound: Sound, given: SoundLike) -> Tensor:
    """A waveform of the input's length, (1, samples) float32 from -1 to 1.

    Channels are averaged, what is too long cut, and what is too short filled up with silence.

    Raises:
        SoundError: it cannot be read, has another rate or numbers that are no sound.
    """
    if isinstance(given, str | os.PathLike):
        values, rate = _read(Path(given))
        if rate != sound.rate:
            raise SoundError(
                "the sound has another rate than the model takes",
                expected=f"{sound.rate} Hz",
                found=f"{given}: {rate} Hz",
                hint=f"resample it, such as with: ffmpeg -i FILE -ar {sound.rate} OUT.wav",
            )
    else:
        values = np.atleast_1d(torch.as_tensor(given).detach().float().numpy().squeeze())
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise SoundError(
            "this is no sound",
            expected="samples along one axis, all of them finite",
            found=str(tuple(values.shape)),
        )
    fitted = np.zeros((1, sound.samples), np.float32)
    count = min(len(values), sound.samples)
    fitted[0, :count] = values[:count]
    return torch.from_numpy(fitted)


def features(sound: Sound, samples: Tensor) -> Tensor:
    """What the model takes, from (1, samples): itself, or (1, mels, frames); in float64 inside."""
    x = samples.detach().to(torch.float64).numpy()[0] * sound.gain
    if sound.normalize:
        x = (x - x.mean()) / np.sqrt(x.var() + VARIANCE_FLOOR)
    if sound.mels is None:
        return torch.from_numpy(x[None]).float()
    if sound.center:
        x = np.pad(x, sound.fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(x, sound.length)[:: sound.hop]
    frames = frames[: sound.frames]
    if sound.remove_mean:
        frames = frames - frames.mean(-1, keepdims=True)
    if sound.preemphasis:
        before = np.concatenate([frames[:, :1], frames[:, :-1]], -1)
        frames = frames - sound.preemphasis * before
    spectrum = np.fft.rfft(frames * window_of(sound), sound.fft)
    power = mel_bands(sound) @ (np.abs(spectrum) ** 2).T
    log = np.log(np.maximum(power, sound.floor)) / log_unit(sound)
    if sound.below_peak is not None:
        log = np.maximum(log, log.max() - sound.below_peak)
    return torch.from_numpy((log + sound.shift) * sound.factor)[None].float()


def of_input(entry: InputSpec, samples: Tensor) -> Tensor:
    """What a package takes for an input of sound: the waveform, or what the caller makes of it."""
    sound = entry.form
    return samples if sound.package_shape else entry.arranged(features(sound, samples))


def log_unit(sound: Sound) -> float:
    """What a natural logarithm is divided by."""
    return {"ln": 1.0, "log10": float(np.log(10)), "db": float(np.log(10)) / 10}[sound.log]


def window_of(sound: Sound) -> Array:
    """Over one frame, its ends zero where the window is shorter."""
    size = sound.window_size or sound.fft
    # Kaldi's frames end with the window, and are symmetric; the others are periodic.
    phase = 2 * np.pi * np.arange(size) / (size if sound.center else max(size - 1, 1))
    shapes = {
        "hann": 0.5 - 0.5 * np.cos(phase),
        "hamming": 0.54 - 0.46 * np.cos(phase),
        "povey": (0.5 - 0.5 * np.cos(phase)) ** _POVEY,
        "none": np.ones(size),
    }
    left = (sound.length - size) // 2
    return np.pad(shapes[sound.window], (left, sound.length - size - left))


@functools.cache
def mel_bands(sound: Sound) -> Array:
    """Weights of each frequency in each band, (mels, fft // 2 + 1)."""
    assert sound.mels is not None
    high = sound.rate / 2 if sound.high is None else sound.high
    hertz = np.fft.rfftfreq(sound.fft, 1 / sound.rate)
    edges = np.linspace(_mel(sound.low, sound.scale), _mel(high, sound.scale), sound.mels + 2)
    if sound.triangles_in_mel:
        at, corners = _mel(hertz, sound.scale), edges
    else:
        at, corners = hertz, _hertz(edges, sound.scale)
    rise = (at - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    fall = (corners[2:, None] - at) / (corners[2:] - corners[1:-1])[:, None]
    bands = np.maximum(0.0, np.minimum(rise, fall))
    if sound.equal_area:
        wide = _hertz(edges, sound.scale)
        bands *= (2.0 / (wide[2:] - wide[:-2]))[:, None]
    return bands


@functools.cache
def telling_sound(samples: int, rate: int) -> Tensor:
    """A waveform on which no two spectrograms agree: a sweep, clicks, noise, loud and quiet.

    Like most recordings it has 16 bits a sample.
    """
    time = np.arange(samples) / rate
    span = max(time[-1], 1 / rate)
    sweep = np.sin(2 * np.pi * (60 * time + (0.4 * rate - 60) * time**2 / (2 * span)))
    noise = np.random.default_rng(0).standard_normal(samples)
    loudness = 10.0 ** (-3 * np.abs(np.sin(3 * np.pi * time / span)))
    clicks = (np.arange(samples) % (rate // 7) == 0) * 0.5
    mixed = 0.45 * sweep * loudness + 0.01 * noise * loudness + clicks * loudness
    return torch.from_numpy((np.round(mixed * _STEPS) / _STEPS).astype(np.float32))


def _read(path: Path) -> tuple[Array, int]:
    """Samples from -1 to 1, channels averaged, and the rate."""
    if not path.is_file():
        raise SoundError("there is no such sound", found=str(path), hint="check the path")
    try:
        with wave.open(str(path), "rb") as opened:
            width, channels = opened.getsampwidth(), opened.getnchannels()
            rate, raw = opened.getframerate(), opened.readframes(opened.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise SoundError(
            "the sound cannot be read",
            expected="a WAV file of whole numbers",
            found=f"{path}: {error}",
            hint="write it anew, such as with: ffmpeg -i FILE -c:a pcm_s16le OUT.wav",
        ) from error
    bytes_ = np.frombuffer(raw[: len(raw) // (width * channels) * (width * channels)], np.uint8)
    if width == 1:  # unsigned
        values = (bytes_.astype(np.float32) - 128) / 128
    else:
        whole = np.zeros((len(bytes_) // width, 4), np.uint8)
        whole[:, 4 - width :] = bytes_.reshape(-1, width)
        values = whole.view("<i4")[:, 0].astype(np.float64) / 2.0**31
    return values.reshape(-1, channels).mean(-1).astype(np.float32), rate


def _mel(hertz: float | Array, scale: MelScale) -> Array:
    hertz = np.asarray(hertz, np.float64)
    if scale == "htk":
        return _HTK_FACTOR * np.log10(1 + hertz / _HTK_KNEE)
    above = _KNEE / _LINEAR + np.log(np.maximum(hertz, 1e-9) / _KNEE) / _STEP
    return np.where(hertz < _KNEE, hertz / _LINEAR, above)


def _hertz(mel: Array, scale: MelScale) -> Array:
    if scale == "htk":
        return _HTK_KNEE * (10 ** (mel / _HTK_FACTOR) - 1)
    knee = _KNEE / _LINEAR
    return np.where(mel < knee, mel * _LINEAR, _KNEE * np.exp(_STEP * (mel - knee)))
