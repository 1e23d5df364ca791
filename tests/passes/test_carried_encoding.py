"""Compressed weights under the passes: their encoding is moved, joined and multiplied with them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

import passes
from frontend.capturing import capture
from frontend.encoding import Encoding, spread
from passes.fold_batch_norm import FoldBatchNorm
from passes.fold_constants import FoldConstants

SCALES = torch.tensor([[0.5], [0.25], [2.0], [0.125]])
INTEGERS = Encoding(4, False, True, scales=SCALES)
AFFINE = Encoding(8, False, True, scales=SCALES, zero_points=torch.tensor([[3], [-2], [0], [7]]))
BLOCKS = Encoding(4, False, True, scales=torch.rand(4, 3) + 0.5)
PALETTE = Encoding(2, palettes=torch.zeros(1, 1, dtype=torch.int64))
GROUPS = Encoding(1, palettes=torch.tensor([[0], [1]]))
SPARSE = Encoding(is_sparse=True)
ALL = {
    "integers": INTEGERS,
    "affine": AFFINE,
    "blocks": BLOCKS,
    "palette": PALETTE,
    "groups": GROUPS,
    "sparse": SPARSE,
}
X = torch.randn(2, 6)
FACTORS = torch.rand(4, 6) + 0.1


def weight_of(encoding: Encoding) -> torch.Tensor:
    """(4, 6), compressed so."""
    if encoding.scales is not None:
        points = torch.zeros(1, 1) if encoding.zero_points is None else encoding.zero_points
        return (torch.randint(-8, 8, (4, 6)) - points) * spread(encoding.scales, (4, 6))
    if encoding.palettes is None:
        return torch.randn(4, 6) * (torch.rand(4, 6) > 0.7)
    tables = torch.randn(int(encoding.palettes.max()) + 1, 2**encoding.bits)
    which = spread(encoding.palettes, (4, 6))
    return tables[which, torch.randint(0, 2**encoding.bits, (4, 6))]


class Made(nn.Module):
    """The product with a constant that is made of weights."""

    def __init__(self, make: Callable[..., torch.Tensor], *weights: torch.Tensor) -> None:
        super().__init__()
        self.make = make
        self.w = nn.ParameterList(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum() * self.make(*self.w)


def encoded(model: nn.Module, encodings: dict[str, Encoding]) -> ExportedProgram:
    program = copy.copy(capture(model, (X,)))
    entries = [encoding.entries(name) for name, encoding in encodings.items()]
    program._state_dict = {**program.state_dict, **{k: v for e in entries for k, v in e.items()}}
    return program


def folded(
    make: Callable[..., torch.Tensor], *encodings: Encoding
) -> tuple[torch.Tensor, Encoding | None, list[str]]:
    """The one constant that is left, its encoding, and what was declined."""
    model = Made(make, *(weight_of(encoding) for encoding in encodings))
    program = encoded(model, {f"w.{n}": encoding for n, encoding in enumerate(encodings)})
    optimized = passes.optimize_for_ane(program, pipeline=(FoldConstants(),))
    torch.testing.assert_close(optimized(X), model(X))
    (name,) = [spec.target for spec in optimized.program.graph_signature.input_specs if spec.target]
    state = optimized.program.state_dict
    reasons = [declined.reason for declined in optimized.reports[0].declined]
    return state[name], Encoding.of(state, name), reasons


MOVES: dict[str, Callable[..., torch.Tensor]] = {
    "transposed": lambda w: w.T.clone(),
    "an image": lambda w: w.reshape(4, 6, 1, 1).clone(),
    "a head": lambda w: w[1:3].clone(),
    "columns": lambda w: w[:, 2:6].clone(),
    "axes between": lambda w: w.reshape(2, 2, 6).permute(1, 2, 0).contiguous(),
    "turned": lambda w: w.flip(0),
    "twice": lambda w: torch.cat([w, w.flip(1)], 1),
    "negative": lambda w: -w,
    "halved": lambda w: w * 0.5,
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("kind", ALL)
def test_what_is_moved_keeps_its_encoding(kind: str, move: str) -> None:
    value, encoding, reasons = folded(MOVES[move], ALL[kind])
    assert not reasons and encoding is not None
    assert (encoding.bits, encoding.is_sparse) == (ALL[kind].bits, ALL[kind].is_sparse)
    encoding.check(value)
    if encoding.scales is not None:
        assert torch.equal(encoding.exact(value), value)
        assert encoding.scales.numel() < value.numel()


def test_rows_that_are_multiplied_have_scales_that_are() -> None:
    factors = torch.tensor([0.3, 0.7, 1.1, 0.9])
    value, encoding, _ = folded(lambda w: w * factors[:, None], INTEGERS)
    assert encoding is not None and encoding.scales is not None
    torch.testing.assert_close(encoding.scales, SCALES * factors[:, None])
    torch.testing.assert_close(encoding.exact(value), value)
    value, encoding, _ = folded(lambda w: w * torch.tensor([[1.0], [1.0], [0.3], [0.3]]), PALETTE)
    assert encoding is not None and encoding.palettes is not None
    assert encoding.palettes.shape == (2, 1)
    encoding.check(value)


@pytest.mark.parametrize("kind", ALL)
def test_weights_of_one_kind_are_joined(kind: str) -> None:
    value, encoding, reasons = folded(lambda *w: torch.cat(w), ALL[kind], ALL[kind])
    assert not reasons and encoding is not None and value.shape == (8, 6)
    encoding.check(value)
    if encoding.palettes is not None:
        assert encoding.palettes.unique().numel() == 2 * ALL[kind].palettes.numel()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("make", "encodings", "reason"),
    [
        (lambda *w: torch.cat(w), (PALETTE, INTEGERS), "joins weights .* in different ways"),
        (lambda *w: torch.cat(w), (INTEGERS, AFFINE), "joins weights"),
        (
            lambda w: torch.cat([w, FACTORS]),
            (INTEGERS,),
            "does not depend on",
        ),
        (lambda w: w + 0.3, (INTEGERS,), "no multiples"),
        (lambda w: w @ w.T, (INTEGERS,), "no multiples"),
        (lambda w: w * FACTORS, (PALETTE,), "96 numbers that 2-bit palette"),
        (lambda w: w * torch.tensor([[0.0], [1], [1], [1]]), (INTEGERS,), "does not depend on"),
    ],
    ids=["kinds", "bits", "another", "sum", "product", "every value", "zero"],
)
def test_what_has_no_such_form_is_declined(
    make: Callable[..., torch.Tensor], encodings: tuple[Encoding, ...], reason: str
) -> None:
    _, encoding, (declined,) = folded(make, *encodings)
    assert encoding is None
    assert declined.startswith("a compressed weight becomes a dense one: ")
    assert re.search(reason, declined)


CODES = torch.randint(-8, 8, (4, 6), dtype=torch.int8)
POINTS = torch.tensor([[1], [0], [-3], [2]], dtype=torch.int8)
DEQUANTISED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rows": lambda codes: codes.float() * SCALES,
    "zero points": lambda codes: (codes.float() - POINTS.float()) * SCALES,
    "blocks": lambda codes: (
        (
            codes.reshape(4, 3, 2).float() * BLOCKS.scales[..., None]  # type: ignore[index]
        ).reshape(4, 6)
    ),
    "as they are": lambda codes: codes.float(),
    "unsigned": lambda codes: (codes + 8).to(torch.uint8).float() - 8,
}


@pytest.mark.parametrize("form", DEQUANTISED)
def test_integers_that_a_program_makes_floats_of_are_weights(form: str) -> None:
    model = Made(DEQUANTISED[form])
    model.w = nn.ParameterList([nn.Parameter(CODES, requires_grad=False)])
    optimized = passes.optimize_for_ane(model, (X,), pipeline=(FoldConstants(),))
    torch.testing.assert_close(optimized(X), model(X))
    program = optimized.program
    (name,) = [spec.target for spec in program.graph_signature.input_specs if spec.target]
    encoding = Encoding.of(program.state_dict, name)
    assert encoding is not None and encoding.bits == 4
    assert torch.equal(encoding.exact(program.state_dict[name]), DEQUANTISED[form](CODES))


def test_a_row_of_zeros_may_have_a_scale_of_zero() -> None:
    scales = SCALES.clone()
    scales[1] = 0
    value, encoding, reasons = folded(lambda w: w.T.clone(), replace(INTEGERS, scales=scales))
    assert encoding is not None and not reasons
    encoding.check(value)


def normed(encoding: Encoding) -> tuple[nn.Module, passes.OptimizedModel]:
    norm = nn.BatchNorm1d(4).eval()
    norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    model = nn.Sequential(nn.Linear(6, 4), norm)
    model[0].weight = nn.Parameter(weight_of(encoding))
    program = encoded(model, {"0.weight": encoding})
    pipeline = (FoldBatchNorm(), FoldConstants())
    return model, passes.optimize_for_ane(program, pipeline=pipeline)


@pytest.mark.parametrize("kind", ["integers", "affine", "blocks", "palette", "groups"])
def test_a_norm_is_folded_into_scales_and_not_into_palettes(kind: str) -> None:
    model, optimized = normed(ALL[kind])
    torch.testing.assert_close(optimized(X), model(X), rtol=1e-5, atol=1e-6)
    state = optimized.program.state_dict
    (name,) = [name.partition("/")[0] for name in state if name.endswith("/ane_form")]
    is_folded = name != "0.weight"
    reasons = [declined.reason for declined in optimized.reports[0].declined]
    assert is_folded == (ALL[kind].palettes is None)
    assert is_folded or reasons == [
        "its weight is a palette, and the norm would need one for each channel"
    ]


@pytest.mark.parametrize("factor", [8**-0.5, 0.3, -1 / 7])
@pytest.mark.parametrize("kind", ["integers", "affine", "blocks"])
def test_a_scaled_weight_is_what_its_integers_stand_for(kind: str, factor: float) -> None:
    """To the last digit: what a package decodes is what torch computes with."""
    value, encoding, _ = folded(lambda w: w * factor, ALL[kind])
    assert encoding is not None
    assert torch.equal(encoding.exact(value), value)


def of_vectors(length: int) -> tuple[torch.Tensor, Encoding]:
    """(12, 6), of columns of two vectors of ``length``."""
    kinds = torch.randn(2, length)
    weight = kinds[torch.randint(0, 2, (12 // length, 6))].movedim(-1, 1).reshape(12, 6)
    lanes = (torch.arange(12) % length)[:, None]
    return weight, Encoding(1, palettes=torch.zeros(1, 1, dtype=torch.int64), lanes=lanes)


@pytest.mark.parametrize("length", [2, 3, 4])
@pytest.mark.parametrize("move", [*(move for move in MOVES if move != "axes between"), "rows"])
def test_vectors_of_a_palette_stay_whole(move: str, length: int) -> None:
    weight, encoding = of_vectors(length)
    factors = torch.rand(12 // length).repeat_interleave(length)[:, None] + 0.5
    make = {
        **MOVES,
        "a head": lambda w: w[length : 2 * length],
        "an image": lambda w: w.reshape(12, 6, 1, 1).clone(),
        "rows": lambda w: w * factors,
    }[move]
    program = encoded(Made(make, weight), {"w.0": encoding})
    optimized = passes.optimize_for_ane(program, pipeline=(FoldConstants(),))
    (name,) = [spec.target for spec in optimized.program.graph_signature.input_specs if spec.target]
    state = optimized.program.state_dict
    found = Encoding.of(state, name)
    assert found is not None and found.spelled == "1-bit palette of vectors"
    palette = found.palette(state[name])
    assert palette.axis == (1 if move == "transposed" else 0)
    assert palette.tables.shape[-2:] == (2, length)
    assert torch.equal(state[name], make(weight))


@pytest.mark.parametrize("cut", [lambda w: w[1:3], lambda w: w[::2], lambda w: w.roll(1, 0)])
def test_vectors_that_are_cut_apart_are_declined(cut: Callable[..., torch.Tensor]) -> None:
    weight, encoding = of_vectors(2)
    program = encoded(Made(cut, weight), {"w.0": encoding})
    optimized = passes.optimize_for_ane(program, pipeline=(FoldConstants(),))
    (declined,) = optimized.reports[0].declined
    assert re.search("vectors of its palette are cut apart|a block has . values", declined.reason)
