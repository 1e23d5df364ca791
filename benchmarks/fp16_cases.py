"""Models that float16 harms, each in a few lines, and whether that is said before a conversion.

    python -m benchmarks.fp16_cases [--only WORD] [--safe]

For each case the default package is run in the interpreter on the example inputs and, where a case
has them, on other inputs of the same kind: positions of 3,000 where the example holds 0 to 7. The
table has its largest relative error, that of torch in half precision, whether `verify` passes, and
what `check` finds before a conversion. `check` sees the example inputs only. With `--safe` each is
also converted with ``precision="safe"``, calibrated on the example alone; `near` says whether every
output is within three times half torch, or 2e-3 where that is more or there is none.

Exit codes: 0 all as it should be, 1 a case fails without a finding or in safe precision, or too few
are near there.
"""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import dataclass

import click
import torch
import torch.nn.functional as F
from coremltools.models import MLModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

import lowering
import passes
from benchmarks.fp16_case import Case, Function, of
from benchmarks.fp16_more_cases import more_cases
from lowering.checking.scan import check
from lowering.conversion.converter import convert
from lowering.verification import Verification, verify
from lowering.verification.original import Original
from lowering.verification.parity import Thresholds
from passes.optimized_model import OptimizedModel

# Share of the cases that are to be near in safe precision.
NEAR = 22 / 23
# Rules about float16, by how they begin.
RULES = "fp16-"


class Block(nn.Module):
    """Two residual blocks with a channel that grows far, as large language models have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32)
        with torch.no_grad():
            self.first.bias[3], self.second.bias[3] = 4e4, 4e4

    def forward(self, x: Tensor) -> Tensor:
        """(1, tokens, 32) to the same."""
        x = x + self.first(x)
        x = x + self.second(self.norm(x))
        result: Tensor = self.norm(x)
        return result


class Rotary(nn.Module):
    """Attention whose rotary angles come from positions that are an input."""

    speed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96)
        self.register_buffer("speed", 10000 ** (-torch.arange(0, 16, 2).float() / 16))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """(1, tokens, 32) and (1, tokens) to (1, 2, tokens, 16)."""
        angle = positions[:, :, None].float() * self.speed
        angle = torch.cat([angle, angle], -1)[:, None]
        cos, sin = angle.cos(), angle.sin()
        q, k, v = self.qkv(x).view(1, -1, 3, 2, 16).permute(2, 0, 3, 1, 4)
        q, k = (t * cos + torch.cat([-t[..., 8:], t[..., :8]], -1) * sin for t in (q, k))
        return F.scaled_dot_product_attention(q, k, v)


class Timestep(nn.Module):
    """The embedding of a diffusion model's timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 32)

    def forward(self, step: Tensor) -> Tensor:
        """(1,) to (1, 32)."""
        speed = torch.exp(-9.21 * torch.arange(32, dtype=torch.float32) / 32)
        angle = step[:, None].float() * speed
        result: Tensor = self.layer(torch.cat([angle.cos(), angle.sin()], -1))
        return result


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Moves a picture (1, 3, height, width) by a flow (1, 2, height, width) in pixels."""
    height, width = flow.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([x, y], -1)[None] + flow.permute(0, 2, 3, 1)
    place = place / torch.tensor([width - 1.0, height - 1.0]) * 2 - 1
    return F.grid_sample(image, place, padding_mode="border", align_corners=True)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Between all rows of (n, features) and (m, features), by the sum of squares."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T
    return squares.clamp(min=0).sqrt()


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention whose scores are divided after the product."""
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def own_rms_norm(x: Tensor) -> Tensor:
    """As T5 writes it."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-12)


def standardised(x: Tensor) -> Tensor:
    """Over the last axis."""
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-9)


def entropy(scores: Tensor) -> Tensor:
    """Of the distribution that scores (n, classes) stand for."""
    p = scores.softmax(-1)
    return -(p * torch.log(p + 1e-12)).sum(-1)


def features(place: Tensor) -> Tensor:
    """Fourier features of places (n, 2) in 0 to 1, as radiance fields take them."""
    angle = place[..., None] * 2.0 ** torch.arange(10) * torch.pi
    return torch.cat([angle.sin(), angle.cos()], -1).flatten(1)


def cases() -> tuple[Case, ...]:
    """All of them, with the same numbers in every run."""
    torch.manual_seed(0)
    x, y, p = torch.randn(2, 64), torch.randn(2, 64), torch.rand(2, 64)
    long, row = torch.rand(1, 8192), torch.randn(1, 8, 32)
    batch_norm = nn.BatchNorm1d(64).eval()
    batch_norm.running_var.fill_(1e-9)  # type: ignore[union-attr]
    tiny = nn.LayerNorm(64, eps=1e-12)
    step, whole = torch.tensor([3]), torch.tensor([3.0])
    flow, picture = torch.randn(1, 2, 24, 640) * 2, torch.rand(1, 3, 24, 640)
    positions = torch.arange(8)[None]

    return (
        of("log of sum of exp", lambda x: x.exp().sum(-1).log(), 4 * x + 9),
        of("logsumexp", lambda x: x.logsumexp(-1), 4 * x + 9),
        Case("massive residual", Block(), (row,)),
        of("var", lambda x: x.var(-1), 500 * x),
        of("var about a large mean", lambda x: x.var(-1), x + 300),
        of("std of small", lambda x: x.std(-1), 1e-4 * x),
        of("var by two means", lambda x: (x * x).mean(-1) - x.mean(-1) ** 2, x + 9),
        of("mean of squares", lambda x: x.square().mean(-1), 400 * x),
        of("standardised", standardised, 1e-4 * x),
        of("cumsum", lambda x: x.cumsum(-1).diff(dim=-1), long),
        of("cumsum that overflows", lambda x: x.cumsum(-1), 20 * long),
        of("logit", torch.logit, 1 - 1e-4 * p),
        of("log_softmax", lambda x: x.log_softmax(-1), 9 * x),
        of("log of softmax", lambda x: x.softmax(-1).log(), 9 * x),
        Case("LayerNorm, eps 1e-12", tiny, (1e-3 * x,)),
        Case("GroupNorm, eps 1e-12", nn.GroupNorm(4, 64, eps=1e-12), (1e-3 * x,)),
        of("RMSNorm by hand", own_rms_norm, 1e-4 * x),
        Case("RMSNorm", nn.RMSNorm(64, eps=1e-12), (1e-4 * x,)),
        Case("BatchNorm of small", batch_norm, (1e-5 * x,)),
        of("asinh", torch.asinh, 400 * x),
        of("acosh", torch.acosh, 1 + 1000 * p),
        of("atanh", torch.atanh, 2e-3 * x),
        Case("rotary", Rotary(), (row, positions), ((row, positions + 3001),)),
        Case("timestep", Timestep(), (step,), ((step + 996,),)),
        Case("timestep, float", Timestep(), (whole,), ((whole + 996,),)),
        Case("flow coordinates", Function(warp), (picture, flow)),
        of("normalize large", F.normalize, 400 * x),
        of("normalize small", F.normalize, 1e-5 * x),
        of("vector_norm", lambda x: torch.linalg.vector_norm(x, dim=-1), 400 * x),
        of("cosine similarity", F.cosine_similarity, 200 * x, 200 * y),
        of("cosine similarity of small", F.cosine_similarity, 1e-5 * x, 1e-5 * y),
        of("softplus", lambda x: F.softplus(x, 4.0), 30 * x),
        of("softplus by hand", lambda x: torch.log(1 + torch.exp(x)), 6 * x + 3),
        of("mish", F.mish, 30 * x),
        of("log1p of small", lambda x: torch.log(1 + x), 1e-3 * p),
        of("expm1 of small", lambda x: x.exp() - 1, 1e-3 * x),
        of("difference of large", lambda x, y: (x + 1000) - (y + 1000), x, y),
        of("distances", distances, x + 20, y + 20),
        of("attention with large scores", attend, 90 * row, 90 * row.flip(1), row),
        of("softmax of cold scores", lambda x: (x / 0.002).softmax(-1), x),
        of("entropy", entropy, 6 * x),
        of("Fourier features", features, torch.rand(64, 2)),
        of("cube", lambda x: x**3 / 1e4, 30 * x),
        of("tiny factor", lambda x: (x * 1e-5) ** 2 * 1e9, x),
        *more_cases(),
    )


@dataclass(frozen=True)
class Outcome:
    """What a case came to.

    Attributes:
        error: the largest relative L2 error of the default package.
        half: that of torch in half precision, ``None`` where it has none.
        passed: whether `verify` passes on every call.
        rules: about float16 that `check` found.
        safe: whether the package in safe precision passes; ``None`` where it was not made.
        near: whether it is within three times half torch, or 2e-3.
    """

    error: float
    half: float | None
    passed: bool
    rules: tuple[str, ...]
    safe: bool | None = None
    near: bool | None = None

    @property
    def silent(self) -> bool:
        """It fails, and nobody said so before."""
        return not self.passed and not self.rules


def outcome(case: Case, *, safe: bool = False) -> Outcome:
    """Checks, converts and verifies a case."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check(case.model, case.example)
        optimized = passes.optimize_for_ane(case.model, case.example)
        runs = _verified(case, optimized, convert(optimized, skip_model_load=True))
        also = near = None
        if safe:
            package = lowering.convert(optimized, precision="safe", skip_model_load=True)
            found_safe = _verified(case, optimized, package)
            also, near = all(map(bool, found_safe)), all(map(_is_near, found_safe))
    rules = tuple(dict.fromkeys(f.rule for f in found.findings if f.rule.startswith(RULES)))
    outputs = [output for run in runs for output in run.outputs]
    halves = [output.yardstick for output in outputs if output.yardstick is not None]
    return Outcome(
        max(output.rel_l2 for output in outputs),
        max(halves, default=None),
        all(map(bool, runs)),
        rules,
        also,
        near,
    )


def _is_near(run: Verification) -> bool:
    limits = Thresholds()
    for output in run.outputs:
        half = output.yardstick or 0.0
        allowed = limits.fp16_factor * half if math.isfinite(half) else 0.0
        if not output.rel_l2 <= max(limits.fp16_floor, allowed):
            return False
    return True


def _verified(case: Case, optimized: OptimizedModel, package: MLModel) -> list[Verification]:
    """The package on the example and on the further calls."""
    found = [verify(package, case.model, case.example, locate=False)]
    if case.calls:
        original = Original.of(case.model, case.example, pipeline=optimized.pipeline)
        found += [verify(package, original.called(call), locate=False) for call in case.calls]
    return found


@click.command()
@click.option("--only", default="", help="Cases whose name has this word.")
@click.option("--safe", is_flag=True, help="Convert in safe precision too.")
def main(only: str, safe: bool) -> None:
    """See the module."""
    headings = [
        "case",
        "error",
        "half torch",
        "verify",
        *(["safe", "near"] if safe else []),
        "check finds",
    ]
    table = Table(*headings, box=None, pad_edge=False)
    silent: list[str] = []
    failed = count = unsafe = near = 0
    for case in cases():
        if only not in case.name:
            continue
        found = outcome(case, safe=safe)
        count, failed = count + 1, failed + (not found.passed)
        unsafe += found.safe is False
        near += bool(found.near)
        silent += [case.name] if found.silent else []
        half = "" if found.half is None else f"{found.half:.1e}"
        table.add_row(
            escape(case.name),
            f"{found.error:.1e}",
            half,
            _words(found.passed),
            *([_words(bool(found.safe)), "yes" if found.near else "no"] if safe else []),
            ", ".join(found.rules) or ("NOTHING" if found.silent else ""),
        )
    console = Console(width=120, highlight=False)
    console.print(table)
    console.print(
        f"{count} cases, {failed} fail in float16, {len(silent)} of these without a finding"
        + (f": {', '.join(silent)}" if silent else "")
        + (f"; {unsafe} fail in safe precision, {near} are near" if safe else "")
    )
    sys.exit(bool(silent) or bool(unsafe) or (safe and near < NEAR * count))


def _words(passed: bool) -> str:
    return "passes" if passed else "fails"


if __name__ == "__main__":
    main()
