"""Programs that a user exported bring conditions on sizes, which a package would not check."""

import pytest
import torch
from torch import nn
from torch.export import Dim, export

import frontend
from frontend.errors import SizeError
from frontend.given_guards import UncheckedSizeWarning

HINT = Dim.DYNAMIC(min=2, max=64)


class Halves(nn.Module):
    def forward(self, x):
        n = x.shape[1]
        return x.reshape(x.shape[0], n // 2, 2).sum(-1) if n % 2 == 0 else x


class Thirds(nn.Module):
    def forward(self, x):
        return torch.cat([part.sum(1, keepdim=True) for part in x.tensor_split(3, 1)], 1)


class NotNine(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[1] != 9 else x


class Padded(nn.Module):
    def forward(self, x):
        n = x.shape[1]
        return x[:, : n // 2] if n != 9 else x.narrow(1, 0, n // 2)


class Shorter(nn.Module):
    def forward(self, x, y):
        return x.sum() + y if x.shape[1] <= y.shape[1] else x.sum() - y


class Nested(nn.Module):
    def forward(self, pair, named, *, last):
        x = pair[0] * 2 if named["k"].shape[0] % 3 == 1 else pair[0]
        return x + last.sum()


@pytest.mark.parametrize(("model", "refused"), [(Halves(), "5"), (Thirds(), "6"), (NotNine(), "9")])
def test_a_size_that_the_program_refuses_is_named(model, refused):
    program = export(model, (torch.randn(1, 10),), dynamic_shapes={"x": {1: HINT}})
    with pytest.raises(AssertionError):
        program.module()(torch.randn(1, int(refused)))
    with pytest.raises(SizeError) as caught:
        frontend.capture(program)
    assert refused in str(caught.value) and "L['x'].size()[1]" in str(caught.value)


def test_so_it_is_after_a_file_and_after_decompositions(tmp_path):
    program = export(Halves(), (torch.randn(1, 10),), dynamic_shapes={"x": {1: HINT}})
    torch.export.save(program, tmp_path / "halves.pt2")
    # A program that is loaded and decomposed has lost them (torch 2.13): nothing is left to hold.
    for given in (torch.export.load(tmp_path / "halves.pt2"), program.run_decompositions()):
        with pytest.raises(SizeError, match="refuses sizes"):
            frontend.capture(given)


def test_places_in_nested_inputs_are_told():
    inputs = ((torch.randn(1, 10),), {"k": torch.randn(4)})
    shapes = {"pair": ({1: None},), "named": {"k": {0: HINT}}, "last": {0: HINT}}
    program = export(Nested(), inputs, kwargs={"last": torch.randn(3)}, dynamic_shapes=shapes)
    with pytest.raises(SizeError, match=r"L\['named'\]\['k'\]\.size\(\)\[0\] % 3"):
        frontend.capture(program)


def test_conditions_that_hold_in_the_whole_range_pass():
    half = Dim("half", min=2, max=32)
    program = export(Halves(), (torch.randn(1, 10),), dynamic_shapes={"x": {1: 2 * half}})
    assert frontend.capture(program).graph_signature.user_outputs
    narrow = Dim.DYNAMIC(min=10, max=64)
    program = export(NotNine(), (torch.randn(1, 12),), dynamic_shapes={"x": {1: narrow}})
    assert frontend.capture(program).graph_signature.user_outputs


def test_a_captured_program_carries_none(tmp_path):
    """They were tried beside the model, and stand for nothing where both run alike."""
    sizes = {"x": {1: Dim("n", min=2, max=64)}}
    captured = frontend.capture(Padded(), (torch.randn(1, 10),), dynamic_shapes=sizes)
    torch.export.save(captured, tmp_path / "padded.pt2")
    for program in (captured, torch.export.load(tmp_path / "padded.pt2")):
        again = frontend.capture(program)
        for size in (7, 9, 32):
            x = torch.randn(1, size)
            (found,) = again.module()(x)
            assert torch.equal(found, Padded()(x))


def test_a_condition_that_cannot_be_read_is_said():
    program = export(nn.ReLU(), (torch.randn(1, 12),), dynamic_shapes={"input": {1: HINT}})
    program._guards_code = ["L['input'].size()[1] ** 2 > 3"]
    with pytest.warns(UncheckedSizeWarning, match="no arithmetic"):
        frontend.capture(program)


def test_a_condition_on_two_sizes_is_said():
    shapes = {"x": {1: HINT}, "y": {1: HINT}}
    program = export(Shorter(), (torch.randn(1, 5), torch.randn(1, 8)), dynamic_shapes=shapes)
    with pytest.warns(UncheckedSizeWarning, match=r"L\['x'\].*L\['y'\].*several sizes"):
        frontend.capture(program)
