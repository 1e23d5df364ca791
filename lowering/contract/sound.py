"""What a model takes where it takes sound: a waveform, or the log-mel spectrogram of one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from lowering.contract.errors import ContractError

Window: TypeAlias = Literal["hann", "hamming", "povey", "none"]
MelScale: TypeAlias = Literal["slaney", "htk"]
Log: TypeAlias = Literal["ln", "log10", "db"]

# Whisper's and Kaldi's numbers (*documented*: OpenAI's whisper/audio.py, Kaldi's feature-fbank.h).
_WHISPER: dict[str, Any] = {"below_peak": 8.0, "shift": 4.0, "factor": 0.25, "drop_last": True}
_KALDI: dict[str, Any] = {
    "fft": 512,
    "window": "povey",
    "window_size": 400,
    "low": 20.0,
    "scale": "htk",
    "triangles_in_mel": True,
    "equal_area": False,
    "center": False,
    "log": "ln",
    "floor": 1.192092955078125e-07,
    "gain": 32768.0,
    "preemphasis": 0.97,
    "remove_mean": True,
}


@dataclass(frozen=True)
class Sound:
    """How a waveform becomes an input of floats.

    A package takes ``samples`` numbers from -1 to 1, (1, samples); shorter sounds are filled up
    with silence, longer ones cut. Without ``mels`` the model takes them as they are. With it the
    log-mel spectrogram is computed by the program, so that one package goes from sound to outputs;
    or, with ``inside=False``, by the caller, and this says how. It is taken as
    (1, mels, frames) or (1, frames, mels), whichever shape the model's input has.

    Attributes:
        samples: length of the waveform.
        rate: samples in a second.
        mels: bands of the spectrogram; ``None`` for the waveform itself.
        fft: samples of one transform.
        hop: samples from one frame to the next.
        window: its shape; ``povey`` is Kaldi's.
        window_size: samples of it; ``fft`` by default.
        low, high: edges of the bands in Hz; half the rate by default.
        scale: of the bands.
        triangles_in_mel: whether bands are triangles over mel, and not over Hz.
        equal_area: bands have the same area (librosa's default), not the same height.
        center: the first frame's middle is the first sample, the ends mirrored.
        drop_last: leave the last frame out.
        log: of the power in each band; ``db`` is ten times log10.
        floor: what power is taken for at least.
        below_peak: the logarithm is raised to this far below its largest.
        shift, factor: ``(log + shift) * factor``.
        gain: of the waveform, before anything else.
        preemphasis: in each frame, so much of the sample before is taken off, as Kaldi does.
        remove_mean: take each frame's mean off.
        normalize: mean 0 and variance 1 over the whole waveform, before anything else.
        inside: whether the program computes the spectrogram.

    Raises:
        ContractError: these do not go together; all problems at once.
    """

    samples: int
    rate: int = 16000
    mels: int | None = None
    fft: int = 400
    hop: int = 160
    window: Window = "hann"
    window_size: int | None = None
    low: float = 0.0
    high: float | None = None
    scale: MelScale = "slaney"
    triangles_in_mel: bool = False
    equal_area: bool = True
    center: bool = True
    drop_last: bool = False
    log: Log = "log10"
    floor: float = 1e-10
    below_peak: float | None = None
    shift: float = 0.0
    factor: float = 1.0
    gain: float = 1.0
    preemphasis: float = 0.0
    remove_mean: bool = False
    normalize: bool = False
    inside: bool = True

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ContractError("this sound input makes no sense", problems)

    @classmethod
    def whisper(cls, samples: int = 480000, mels: int = 80, **changes: object) -> Sound:
        """As Whisper takes it: 30 seconds by default."""
        settings: dict[str, Any] = {**_WHISPER, **changes}
        return cls(samples, mels=mels, **settings)

    @classmethod
    def kaldi(cls, samples: int, mels: int = 80, **changes: object) -> Sound:
        """As Kaldi's filter banks are, which torchaudio and many speech models take."""
        settings: dict[str, Any] = {**_KALDI, **changes}
        return cls(samples, mels=mels, **settings)

    @property
    def length(self) -> int:
        """Samples of one frame."""
        return self.fft if self.center else self.window_size or self.fft

    @property
    def frames(self) -> int:
        """Of the spectrogram."""
        padded = self.samples + (self.fft // 2 * 2 if self.center else 0)
        return (padded - self.length) // self.hop + 1 - int(self.drop_last)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the model takes: (1, samples) or (1, mels, frames)."""
        return (1, self.samples) if self.mels is None else (1, self.mels, self.frames)

    @property
    def package_shape(self) -> tuple[int, ...] | None:
        """Of what the package takes where that is the waveform; ``None``: what the model takes."""
        return (1, self.samples) if self.mels is None or self.inside else None

    def describe(self) -> str:
        """In a line, for people."""
        seconds = f"{self.samples / self.rate:g} s at {self.rate} Hz"
        if self.mels is None:
            return f"{seconds}, the waveform"
        where = "in the package" if self.inside else "by the caller"
        return f"{seconds}, {self.mels} bands of {self.fft} samples each {self.hop}, {where}"

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self)

    def _problems(self) -> list[str]:
        found = []
        for name, kinds in (("window", Window), ("scale", MelScale), ("log", Log)):
            if getattr(self, name) not in get_args(kinds):
                wanted = ", ".join(get_args(kinds))
                found.append(f"{name} is {getattr(self, name)!r}, not one of {wanted}")
        for name in ("samples", "rate", "mels", "fft", "hop", "window_size"):
            value = getattr(self, name)
            if not (_is_size(value) or (value is None and name in ("mels", "window_size"))):
                found.append(f"{name} is {value!r}, not a whole number from 1 on")
        for name in ("triangles_in_mel", "equal_area", "center", "drop_last", "remove_mean"):
            if not isinstance(getattr(self, name), bool):
                found.append(f"{name} is {getattr(self, name)!r}, not true or false")
        for name in ("normalize", "inside"):
            if not isinstance(getattr(self, name), bool):
                found.append(f"{name} is {getattr(self, name)!r}, not true or false")
        for name in ("low", "shift", "factor", "gain", "preemphasis", "floor"):
            if not _is_number(getattr(self, name)):
                found.append(f"{name} is {getattr(self, name)!r}, not a finite number")
        for name in ("high", "below_peak"):
            value = getattr(self, name)
            if value is not None and (not _is_number(value) or value <= 0):
                found.append(f"{name} is {value!r}, not a number above 0")
        return found or self._range_problems()

    def _range_problems(self) -> list[str]:
        found = []
        high = self.rate / 2 if self.high is None else self.high
        if not 0 <= self.low < high <= self.rate / 2:
            found.append(
                f"bands go from {self.low:g} to {high:g} Hz, and must lie between 0 and half the "
                f"rate, {self.rate / 2:g}"
            )
        if self.floor <= 0 or self.gain <= 0:
            found.append("floor and gain must be above 0")
        if not 0 <= self.preemphasis < 1:
            found.append(f"preemphasis is {self.preemphasis!r}, not a number from 0 to below 1")
        if self.window_size is not None and self.window_size > self.fft:
            found.append(f"window_size {self.window_size} is more than fft, {self.fft}")
        if self.center and (self.preemphasis or self.remove_mean):
            found.append("preemphasis and remove_mean are Kaldi's, whose frames are not centred")
        if self.mels is not None and self.frames < 1:
            found.append(f"{self.samples} samples are less than one frame")
        elif self.mels is not None and self.center and self.samples <= self.fft // 2:
            found.append(f"{self.samples} samples cannot be mirrored by {self.fft // 2}")
        return found


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
