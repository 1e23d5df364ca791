"""Signal and image nets of ``plain.py`` that take more than a line."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class CellLoop(nn.Module):
    """A cell called once for each step."""

    def __init__(self, cell: nn.LSTMCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, C) to (B, S, H)."""
        state = None
        found = []
        for step in x.unbind(1):
            state = self.cell(step, state)
            found.append(state[0])
        return torch.stack(found, 1)


class PackedLstm(nn.Module):
    """Sequences of unequal length, packed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(64, 128, 2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, C) and (B) to (B, S, 2 H), zero behind the end, and the final states."""
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        found, (state, _) = self.layers(packed)
        total = x.shape[1]
        return pad_packed_sequence(found, batch_first=True, total_length=total)[0], state


class Crnn(nn.Module):
    """Convolutions, then a recurrent net along the width."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d((2, 1)),
        )
        self.recurrent = nn.GRU(64 * 8, 64, bidirectional=True, batch_first=True)
        self.head = nn.Linear(128, 37)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 32, W) to log probabilities (B, W / 2, 37)."""
        y = self.convolutions(x)
        y = y.permute(0, 3, 1, 2).flatten(2)
        return self.head(self.recurrent(y)[0]).log_softmax(-1)


class AudioConv(nn.Module):
    """Strided 1-D convolutions and their transposes."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Conv1d(i, o, 8, 4, 2) for i, o in ((1, 32), (32, 64), (64, 128))
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose1d(i, o, 8, 4, 2) for i, o in ((128, 64), (64, 32), (32, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, T) to (B, 1, T)."""
        for layer in self.down:
            x = F.leaky_relu(layer(x), 0.2)
        for layer in self.up:
            x = layer(F.elu(x))
        return x.tanh()


class WaveNet(nn.Module):
    """Gated dilated causal convolutions with skips."""

    def __init__(self, channels: int = 32, layers: int = 5) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, channels, 1)
        self.gates = nn.ModuleList(
            nn.Conv1d(channels, 2 * channels, 2, dilation=2**i) for i in range(layers)
        )
        self.mix = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in range(layers))
        self.last = nn.Conv1d(channels, 256, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, T) to scores (B, 256, T)."""
        x = self.first(x)
        total: Any = 0
        for i, (gate, mix) in enumerate(zip(self.gates, self.mix, strict=True)):
            a, b = gate(F.pad(x, (2**i, 0))).chunk(2, 1)
            y = mix(a.tanh() * b.sigmoid())
            total = total + y
            x = x + y
        return self.last(F.relu(total))


class Tcn(nn.Module):
    """Weight-normed convolutions cut to be causal."""

    def __init__(self) -> None:
        super().__init__()
        self.one = weight_norm(nn.Conv1d(64, 64, 3, padding=4, dilation=2))
        self.two = weight_norm(nn.Conv1d(64, 64, 3, padding=8, dilation=4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 64, T) to (B, 64, T)."""
        y = F.relu(self.one(x)[:, :, :-4])
        return F.relu(self.two(y)[..., :-8] + x)


class ConvTasNet(nn.Module):
    """Source separation with masks on learned frames; global layer norm by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, 64, 16, 8, bias=False)
        self.norm = nn.GroupNorm(1, 64, eps=1e-8)
        self.depthwise = nn.Conv1d(64, 64, 3, padding=1, groups=64)
        self.prelu = nn.PReLU()
        self.masks = nn.Conv1d(64, 2 * 64, 1)
        self.decoder = nn.ConvTranspose1d(64, 1, 16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, T) to (B, 2, T')."""
        frames = self.encoder(x).relu()
        y = self.prelu(self.depthwise(self.norm(frames)))
        masks = self.masks(y).view(x.shape[0], 2, 64, -1).sigmoid()
        each = (masks * frames.unsqueeze(1)).flatten(0, 1)
        return self.decoder(each).view(x.shape[0], 2, -1)


class UNet(nn.Module):
    """Two levels, with bilinear upsampling and skips."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.InstanceNorm2d(32), nn.SiLU())
        self.middle = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.SiLU())
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.last = nn.Conv2d(96, 3, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 3, H, W)."""
        skip = self.down(x)
        return self.last(torch.cat([skip, self.up(self.middle(skip))], 1))


class UNet3d(nn.Module):
    """The same in three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU())
        self.pool = nn.MaxPool3d(2)
        self.middle = nn.Conv3d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose3d(16, 8, 2, 2)
        self.last = nn.Conv3d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, D, H, W) to (B, 2, D, H, W)."""
        skip = self.down(x)
        return self.last(torch.cat([skip, self.up(self.middle(self.pool(skip)).relu())], 1))


class SuperResolution(nn.Module):
    """Sub-pixel convolution, once by the operator and once by views of rank 6."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 32, 5, padding=2)
        self.expand = nn.Conv2d(32, 48, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 3, 4 H, 4 W)."""
        y = F.pixel_shuffle(self.expand(self.body(x).relu()), 2)
        b, c, h, w = y.shape
        y = y.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return y.reshape(b, c // 4, 2 * h, 2 * w)


class Spectrogram(nn.Module):
    """Magnitude of a short-time Fourier transform."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(256))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T) to (B, 129, frames)."""
        return torch.stft(x, 256, 64, window=self.window, return_complex=True).abs()  # type: ignore[arg-type]


class MelNet(nn.Module):
    """Log-mel features by matrices, then a classifier over time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(400))
        self.register_buffer("filters", torch.rand(40, 201))
        self.head = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T) to (B, 10)."""
        found = torch.view_as_real(
            torch.stft(x, 400, 160, window=self.window, return_complex=True)  # type: ignore[arg-type]
        )
        mel = self.filters @ found.pow(2).sum(-1)  # type: ignore[operator]
        return self.head(mel.clamp(min=1e-5).log10().mean(-1))


class SpatialTransformer(nn.Module):
    """An image moved by an affine map that is computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Linear(784, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 28, 28) to (B, 1, 28, 28)."""
        theta = self.where(x.flatten(1)).view(-1, 2, 3) * 0.1 + torch.eye(2, 3)
        return F.grid_sample(x, F.affine_grid(theta, list(x.shape), False), align_corners=False)


class PointNet(nn.Module):
    """A learned 3 by 3 map, point-wise layers and a maximum over points."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 9)
        self.features = nn.Sequential(nn.Conv1d(3, 64, 1), nn.BatchNorm1d(64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, N) to (B, 10)."""
        turn = self.map(x.max(2).values).view(-1, 3, 3) + torch.eye(3)
        y = self.features(torch.bmm(x.transpose(1, 2), turn).transpose(1, 2))
        return self.head(y.max(2).values)


class Perceptual(nn.Module):
    """Distance of an image from its mirror image in unit-length features."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 5, 2), nn.ReLU(), nn.AvgPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B,)."""
        one, two = (F.normalize(self.features(v), dim=1) for v in (x, x.flip(-1)))
        return (one - two).square().sum(1).mean((1, 2))


class Pools(nn.Module):
    """Poolings with odd sizes, ceilings, padding and adaptive targets."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 8, 33, 33) to five tensors."""
        return (
            F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
            F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            F.adaptive_avg_pool2d(x, (5, 7)),
            F.adaptive_max_pool2d(x, 4),
            F.lp_pool2d(x, 2.0, 3),
        )
