"""Modules as people write them: recurrent nets, signal processing, states, odd signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.zoo import plain_modules as own
from benchmarks.zoo import signal_modules as signal
from benchmarks.zoo.entry import Draw, Entry, Inputs, floats


class Lambda(nn.Module):
    """A function of tensors as a module, with other modules beside it."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> object:
        """``function(self, x)``."""
        return self.function(self, x)


def _entry(name: str, build: Callable[[], nn.Module], **shapes: tuple[int, ...]) -> Entry:
    return Entry(name, build, floats(**(shapes or {"x": (1, 64, 128)})))


def _drawn(name: str, build: Callable[[], nn.Module], draw: Callable[[], Inputs]) -> Entry:
    found: Draw = lambda _: draw()  # noqa: E731 - the same function without an argument
    return Entry(name, build, found)


def _first(module: nn.Module) -> nn.Module:
    """The sequence alone of a recurrent module's (sequence, state)."""
    return Lambda(lambda m, x: m.inner(x)[0], inner=module)


def _layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True, **options)


_SEQUENCE = {"x": (1, 96, 128)}

PLAIN: tuple[Entry, ...] = (
    _entry(
        "mlp",
        lambda: nn.Sequential(nn.Linear(128, 512), nn.GELU(), nn.Dropout(), nn.Linear(512, 128)),
        input=(8, 128),
    ),
    _entry(
        "attention",
        lambda: Lambda(
            lambda m, x: m.a(x, x, x), a=nn.MultiheadAttention(128, 4, batch_first=True)
        ),
        **_SEQUENCE,
    ),
    _entry(
        "attention-no-weights",
        lambda: Lambda(
            lambda m, x: m.a(x, x, x, need_weights=False)[0], a=nn.MultiheadAttention(128, 4)
        ),
        x=(96, 1, 128),
    ),
    _entry(
        "transformer-encoder",
        lambda: nn.TransformerEncoder(_layer(), 2, enable_nested_tensor=False),
        src=(1, 64, 256),
    ),
    _entry(
        "transformer-encoder-norm-first",
        lambda: nn.TransformerEncoder(
            _layer(norm_first=True, activation="gelu"), 2, enable_nested_tensor=False
        ),
        src=(1, 64, 256),
    ),
    _drawn(
        "transformer-causal",
        lambda: nn.Transformer(128, 4, 1, 1, 512, batch_first=True),
        lambda: {
            "src": torch.randn(1, 32, 128),
            "tgt": torch.randn(1, 16, 128),
            "tgt_mask": nn.Transformer.generate_square_subsequent_mask(16),
        },
    ),
    _entry("lstm", lambda: _first(nn.LSTM(128, 256, batch_first=True)), **_SEQUENCE),
    _entry(
        "lstm-bidirectional-2",
        lambda: nn.LSTM(128, 128, 2, bidirectional=True, batch_first=True),
        input=(1, 48, 128),
    ),
    _drawn(
        "lstm-packed",
        signal.PackedLstm,
        lambda: {"x": torch.randn(3, 24, 64), "lengths": torch.randint(1, 25, (3,))},
    ),
    _entry("lstm-cell-loop", lambda: signal.CellLoop(nn.LSTMCell(64, 128)), x=(1, 12, 64)),
    _entry("gru", lambda: _first(nn.GRU(128, 256, batch_first=True)), **_SEQUENCE),
    _entry("gru-bidirectional", lambda: nn.GRU(64, 64, bidirectional=True), input=(24, 1, 64)),
    _entry("rnn-tanh", lambda: _first(nn.RNN(128, 256, 2, batch_first=True)), **_SEQUENCE),
    _entry("crnn-ocr", signal.Crnn, x=(1, 1, 32, 128)),
    _entry("audio-conv1d", signal.AudioConv, x=(1, 1, 16_000)),
    _entry("wavenet", signal.WaveNet, x=(1, 1, 2048)),
    _entry("tcn-weight-norm", signal.Tcn),
    _entry("conv-tasnet", signal.ConvTasNet, x=(1, 1, 8000)),
    _entry("unet", signal.UNet, x=(1, 3, 128, 128)),
    _entry("unet3d", signal.UNet3d, x=(1, 1, 16, 32, 32)),
    _entry("pixel-shuffle-sr", signal.SuperResolution, x=(1, 3, 48, 48)),
    _entry(
        "spectral-norm",
        lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, 32, 3)),
        input=(1, 16, 32, 32),
    ),
    _entry(
        "orthogonal",
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(64, 64)),
        input=(1, 10, 64),
    ),
    _entry(
        "weight-norm",
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(64, 32, 3)),
        input=(1, 64, 128),
    ),
    _entry("stft-magnitude", signal.Spectrogram, x=(1, 4096)),
    _entry("mel-net", signal.MelNet, x=(1, 8000)),
    _entry("einsum-rank6", own.EinsumAttention, x=(1, 64, 128)),
    _entry("axial-attention", own.AxialAttention, x=(1, 32, 16, 16)),
    _entry("window-partition", own.WindowMixer, x=(1, 32, 28, 28)),
    _entry(
        "patch-unfold",
        lambda: Lambda(
            lambda m, x: F.fold(m.p(F.unfold(x, 4, stride=4).mT).mT, (32, 32), 4, stride=4),
            p=nn.Linear(48, 48),
        ),
        x=(1, 3, 32, 32),
    ),
    _entry("grid-sample", signal.SpatialTransformer, x=(1, 1, 28, 28)),
    _entry(
        "bicubic",
        lambda: Lambda(
            lambda m, x: F.interpolate(m.c(x), scale_factor=2, mode="bicubic"), c=nn.Conv2d(3, 8, 3)
        ),
        x=(1, 3, 30, 30),
    ),
    _entry("nested-output", own.NestedOutput, x=(1, 32)),
    _drawn(
        "nested-input",
        own.NestedInput,
        lambda: {"x": {"image": torch.randn(1, 8), "pair": (torch.randn(1, 8), torch.randn(1, 8))}},
    ),
    _entry("inplace-slices", own.InplaceSlices, x=(1, 16, 32)),
    _entry("masked-writes", own.MaskedWrites, x=(4, 32)),
    _entry("branch-on-data", own.Branches, x=(2, 16)),
    _entry("torch-cond", own.Cond, x=(2, 16)),
    _drawn(
        "mixed-dtypes",
        own.MixedDtypes,
        lambda: {
            "x": torch.randn(2, 16),
            "n": torch.randint(-9, 9, (2, 16)),
            "b": torch.rand(2, 16) > 0.5,
            "u": torch.randint(0, 255, (2, 16), dtype=torch.uint8),
        },
    ),
    _entry(
        "half-module",
        lambda: Lambda(lambda m, x: m.l(x.half()).float(), l=nn.Linear(64, 32).half()),
        x=(2, 64),
    ),
    _entry(
        "bfloat16-module",
        lambda: nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32)).bfloat16().float(),
        input=(2, 64),
    ),
    _drawn(
        "embedding-bag",
        lambda: nn.EmbeddingBag(100, 32),
        lambda: {"input": torch.randint(0, 100, (4, 7))},
    ),
    _drawn("deepfm", own.DeepFm, lambda: {"fields": torch.randint(0, 200, (4, 10))}),
    _drawn(
        "graph-convolution",
        own.GraphConvolution,
        lambda: {"x": torch.randn(20, 32), "edges": torch.randint(0, 20, (2, 60))},
    ),
    _entry("pointnet", signal.PointNet, x=(1, 3, 256)),
    _entry("vector-quantizer", own.VectorQuantizer, x=(1, 32, 16)),
    _entry("s4d-scan", own.DiagonalScan, x=(1, 32, 24)),
    _entry("kan-splines", own.Splines, x=(4, 16)),
    _entry("nerf-encoding", own.FourierFeatures, x=(64, 3)),
    _entry("lpips-style", signal.Perceptual, x=(1, 3, 64, 64)),
    _drawn(
        "cache-index-copy",
        own.CacheIndexCopy,
        lambda: {"x": torch.randn(1, 4, 1, 16), "position": torch.randint(0, 32, (1,))},
    ),
    _drawn(
        "cache-at-position",
        own.CacheAtPosition,
        lambda: {"x": torch.randn(1, 1, 64), "position": torch.randint(0, 32, ())},
    ),
    _entry("running-average", own.RunningAverage, x=(1, 16)),
    _entry("topk-router", own.Router, x=(1, 16, 64)),
    _entry("norm-zoo", own.Norms, x=(2, 32, 16)),
    _entry("activation-zoo", own.Activations, x=(2, 64)),
    _entry("pool-zoo", signal.Pools, x=(1, 8, 33, 33)),
    _entry("shared-layers", own.Shared, x=(1, 16, 64)),
    _entry("siamese", own.Siamese, a=(1, 1, 28, 28), b=(1, 1, 28, 28)),
)
