"""What the installed torch takes apart: default decompositions, captures of small functions.

    python -m benchmarks.torch_release [--write]

Without an option the difference from the stored snapshot of the same release, or of the newest one
before it, is printed. ``--write`` stores a snapshot of the installed release. A test compares
releases that have one, so that an operator which a release takes apart, adds or drops is named
before it is met as a wrong number.

Exit codes: 0 the same, 1 something differs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from frontend.capturing import capture
from frontend.errors import CaptureError

FOLDER = Path(__file__).parent / "data"
# Key of torch's own table in a snapshot.
TABLE = "default_decompositions"
Snapshot = dict[str, list[str]]
Function = Callable[[Tensor, Tensor, Tensor], Tensor]

_UNARY = """
abs acos acosh asin asinh atan atanh ceil cos cosh digamma erf erfc erfinv exp exp2 expm1
floor frac i0 isfinite isinf isnan lgamma log log10 log1p log2 logit neg positive reciprocal
relu round rsqrt sgn sigmoid sign sin sinc sinh sqrt square tan tanh trunc
""".split()  # noqa: SIM905
_BINARY = """
add atan2 copysign div eq floor_divide fmax fmin fmod ge gt hypot le logaddexp logaddexp2 lt
maximum minimum mul ne nextafter pow remainder rsub sub xlogy
""".split()  # noqa: SIM905
_ALONG = """
amax amin argmax argmin all any cummax cumprod cumsum logcumsumexp logsumexp max mean median
min nansum prod softmax log_softmax sort std sum var
""".split()  # noqa: SIM905
_ACTIVATIONS = """
celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu6
selu silu softplus softshrink softsign tanhshrink normalize
""".split()  # noqa: SIM905
_INSTALLED = ".".join(torch.__version__.split("+")[0].split(".")[:2])


def functions() -> Iterator[tuple[str, Function]]:
    """Each takes ``x`` and ``y`` (2, 3, 4), both positive, and ``image`` (1, 4, 8, 8)."""
    for name in _UNARY:
        yield name, _of_x(getattr(torch, name))
    for name in _ALONG:
        yield name, _of_x(getattr(torch, name), -1)
    for name in _ACTIVATIONS:
        yield f"F.{name}", _of_x(getattr(F, name))
    for name in _BINARY:
        yield name, _of_both(getattr(torch, name))
    yield from _NAMED.items()


def _of_x(function: Callable[..., Tensor], *options: int) -> Function:
    return lambda x, y, image: function(x, *options)


def _of_both(function: Callable[..., Tensor]) -> Function:
    return lambda x, y, image: function(x, y)


_NAMED: Mapping[str, Function] = {
    "vector_norm": lambda x, y, image: torch.linalg.vector_norm(x, dim=-1),
    "vector_norm 1": lambda x, y, image: torch.linalg.vector_norm(x, 1, dim=-1),
    "vector_norm inf": lambda x, y, image: torch.linalg.vector_norm(x, float("inf"), dim=-1),
    "norm": lambda x, y, image: x.norm(dim=-1),
    "matrix_norm": lambda x, y, image: torch.linalg.matrix_norm(x),
    "renorm": lambda x, y, image: torch.renorm(x, 2, 0, 1.0),
    "cosine_similarity": lambda x, y, image: F.cosine_similarity(x, y, dim=-1),
    "pairwise_distance": lambda x, y, image: F.pairwise_distance(x, y),
    "cdist": lambda x, y, image: torch.cdist(x, y),
    "layer_norm": lambda x, y, image: F.layer_norm(x, (4,)),
    "rms_norm": lambda x, y, image: F.rms_norm(x, (4,)),
    "group_norm": lambda x, y, image: F.group_norm(image, 2),
    "instance_norm": lambda x, y, image: F.instance_norm(image),
    "local_response_norm": lambda x, y, image: F.local_response_norm(image, 2),
    "matmul": lambda x, y, image: x @ y.mT,
    "einsum": lambda x, y, image: torch.einsum("bij,bkj->bik", x, y),
    "tensordot": lambda x, y, image: torch.tensordot(x, y, dims=([2], [2])),
    "bmm": lambda x, y, image: torch.bmm(x, y.mT),
    "baddbmm": lambda x, y, image: torch.baddbmm(x @ y.mT, x, y.mT),
    "outer": lambda x, y, image: torch.outer(x[0, 0], y[0, 0]),
    "cross": lambda x, y, image: torch.linalg.cross(x[..., :3], y[..., :3]),
    "attention": lambda x, y, image: F.scaled_dot_product_attention(x, y, y),
    "linear": lambda x, y, image: F.linear(x, y[0]),
    "conv1d": lambda x, y, image: F.conv1d(x, y),
    "conv2d": lambda x, y, image: F.conv2d(image, image[:, :, :3, :3]),
    "conv_transpose2d": lambda x, y, image: F.conv_transpose2d(image, x.mT[0, :, None, :, None]),
    "avg_pool2d": lambda x, y, image: F.avg_pool2d(image, 2),
    "max_pool2d": lambda x, y, image: F.max_pool2d(image, 2),
    "lp_pool2d": lambda x, y, image: F.lp_pool2d(image, 2.0, 2),
    "adaptive_avg_pool2d": lambda x, y, image: F.adaptive_avg_pool2d(image, 3),
    "adaptive_max_pool2d": lambda x, y, image: F.adaptive_max_pool2d(image, 2),
    "interpolate nearest": lambda x, y, image: F.interpolate(image, scale_factor=2.0),
    "interpolate bilinear": lambda x, y, image: F.interpolate(image, (5, 7), mode="bilinear"),
    "interpolate bicubic": lambda x, y, image: F.interpolate(image, (5, 7), mode="bicubic"),
    "pixel_shuffle": lambda x, y, image: F.pixel_shuffle(image, 2),
    "pixel_unshuffle": lambda x, y, image: F.pixel_unshuffle(image, 2),
    "channel_shuffle": lambda x, y, image: torch.channel_shuffle(image, 2),
    "unfold": lambda x, y, image: F.unfold(image, 2),
    "grid_sample": lambda x, y, image: F.grid_sample(image, image[:, :2].permute(0, 2, 3, 1)),
    "pad reflect": lambda x, y, image: F.pad(image, (1, 1, 2, 2), mode="reflect"),
    "pad constant": lambda x, y, image: F.pad(x, (1, 1)),
    "glu": lambda x, y, image: F.glu(x),
    "prelu": lambda x, y, image: F.prelu(x, y[0, 0, :1]),
    "clamp": lambda x, y, image: x.clamp(0.1, 0.5),
    "where": lambda x, y, image: torch.where(x > y, x, y),
    "masked_fill": lambda x, y, image: x.masked_fill(x > y, 0.0),
    "lerp": lambda x, y, image: torch.lerp(x, y, 0.3),
    "addcmul": lambda x, y, image: torch.addcmul(x, y, y),
    "addcdiv": lambda x, y, image: torch.addcdiv(x, y, y),
    "topk": lambda x, y, image: x.topk(2).values,
    "kthvalue": lambda x, y, image: x.kthvalue(2).values,
    "gather": lambda x, y, image: x.gather(-1, y.argsort()),
    "scatter_add": lambda x, y, image: x.scatter_add(-1, y.argsort(), y),
    "index_select": lambda x, y, image: x.index_select(-1, y[0, 0].argsort()),
    "take_along_dim": lambda x, y, image: torch.take_along_dim(x, y.argsort(), -1),
    "embedding": lambda x, y, image: F.embedding(y[0].argsort(), x[0].mT),
    "one_hot": lambda x, y, image: F.one_hot(y.argsort(), 4),
    "tril": lambda x, y, image: x.tril(),
    "diag_embed": lambda x, y, image: x.diag_embed(),
    "diagonal": lambda x, y, image: torch.diagonal(x, dim1=1, dim2=2),
    "roll": lambda x, y, image: x.roll(1, -1),
    "flip": lambda x, y, image: x.flip(-1),
    "rot90": lambda x, y, image: image.rot90(1, (2, 3)),
    "repeat_interleave": lambda x, y, image: x.repeat_interleave(2, -1),
    "tile": lambda x, y, image: x.tile(1, 2, 1),
    "stack": lambda x, y, image: torch.stack([x, y]),
    "chunk": lambda x, y, image: x.chunk(2, -1)[1],
    "unbind": lambda x, y, image: x.unbind(1)[2],
    "movedim": lambda x, y, image: x.movedim(0, 2),
    "meshgrid": lambda x, y, image: torch.meshgrid(x[0, 0], y[0, 0], indexing="ij")[0],
    "var_mean": lambda x, y, image: torch.var_mean(x, -1)[0],
    "count_nonzero": lambda x, y, image: x.count_nonzero(-1),
    "bucketize": lambda x, y, image: torch.bucketize(x, y[0, 0].sort().values),
    "softmin": lambda x, y, image: F.softmin(x, -1),
    "mse_loss": lambda x, y, image: F.mse_loss(x, y),
    "cross_entropy": lambda x, y, image: F.cross_entropy(x[0], y[0].softmax(-1)),
    "kl_div": lambda x, y, image: F.kl_div(x, y),
    "rfft": lambda x, y, image: torch.fft.rfft(x).abs(),
    "inverse": lambda x, y, image: torch.linalg.inv(x[:, :, :3]),
}  # fmt: skip


class _Function(nn.Module):
    """One small function as a module.

    Forward takes ``x`` and ``y`` (B=2, N=3, C=4) and ``image`` (B=1, C=4, H=8, W=8), float32.
    """

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor, image: Tensor) -> Tensor:
        """The function's result."""
        return self.function(x, y, image)


def snapshot(
    progress: Callable[[str], None] = lambda name: None, only: Collection[str] | None = None
) -> Snapshot:
    """Operator names by what they come from; ``TABLE`` lists torch's decompositions.

    Args:
        progress: called with the name of each function.
        only: names of functions; all by default.
    """
    torch.manual_seed(0)
    inputs = (torch.rand(2, 3, 4) + 0.1, torch.rand(2, 3, 4) + 0.1, torch.rand(1, 4, 8, 8))
    table = torch.export.default_decompositions()
    found = {TABLE: sorted({name for op in table if (name := _functional(str(op)))})}
    for name, function in functions():
        if only is not None and name not in only:
            continue
        progress(name)
        found[name] = operators(_Function(function).eval(), inputs)
    return found


def operators(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """The operators of a capture in program order; of a refusal, the class of the error."""
    try:
        graph: fx.Graph = capture(module, inputs).graph
    except CaptureError as error:
        return [type(error).__name__]
    return [str(n.target) for n in graph.nodes if n.op == "call_function"]


def _functional(name: str) -> str:
    """``name``, or nothing for other libraries' operators, and variants that write to something."""
    packet, _, overload = name.rpartition(".")
    ours = packet.startswith("aten.") and not packet.endswith("_") and "out" not in overload
    return name if ours else ""


def differences(old: Snapshot, new: Snapshot) -> list[str]:
    """What a release takes apart, adds or drops, a sentence each."""
    before, now = set(old[TABLE]), set(new[TABLE])
    found = [f"{op} is taken apart by default" for op in sorted(now - before)]
    found += [f"{op} is not taken apart by default any more" for op in sorted(before - now)]
    names = sorted((old.keys() & new.keys()) - {TABLE})
    found += [
        f"{name}: {' '.join(old[name])} is now {' '.join(new[name])}"
        for name in names
        if old[name] != new[name]
    ]
    return found


def stored() -> dict[str, Path]:
    """Snapshots by release, the oldest first."""
    files = {path.stem.removeprefix("torch-"): path for path in FOLDER.glob("torch-*.json")}
    return dict(sorted(files.items(), key=lambda item: [int(n) for n in item[0].split(".")]))


@click.command(help=__doc__)
@click.option("--write", is_flag=True, help="Store a snapshot of the installed release.")
def main(write: bool) -> None:
    """See the module's docstring."""
    found = snapshot(lambda name: click.echo(f"\r{name:<30}", nl=False, err=True))
    click.echo("\r", err=True, nl=False)
    if write:
        path = FOLDER / f"torch-{_INSTALLED}.json"
        path.write_text(json.dumps(found, indent=0) + "\n")
        click.echo(f"wrote {path.name}: {len(found) - 1} captures")
        return
    known = stored()
    release = _INSTALLED if _INSTALLED in known else list(known)[-1]
    lines = differences(json.loads(known[release].read_text()), found)
    click.echo(f"torch {_INSTALLED} beside the snapshot of {release}: {len(lines)} differences")
    for line in lines:
        click.echo(f"  {line}")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
