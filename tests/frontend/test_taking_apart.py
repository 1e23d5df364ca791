"""What is taken apart once for each kind of call is what torch takes apart, names included."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frontend import capture, export_errors, taking_apart
from lowering import convert, save


def described(program):
    """Everything about a graph: names, operators, arguments, layouts, and the user's lines."""

    def of(value):
        if isinstance(value, torch.Tensor):
            return tuple(value.shape), value.stride(), value.dtype
        return [of(part) for part in value] if isinstance(value, list | tuple) else value

    keys = ("stack_trace", "nn_module_stack")
    return [
        [n.name, n.op, n.target, str(n.args), str(n.kwargs), of(n.meta.get("val"))]
        + [str(n.meta.get(key)) for key in keys]
        for n in program.graph.nodes
    ]


class Layer(nn.Module):
    """Two equal layers: each kind of call occurs twice, at lines of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class InPlace(nn.Module):
    """Activations that write to what nobody else sees, as in most networks for images."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))
        self.acts = nn.ModuleList((nn.SiLU(True), nn.ReLU6(True), nn.Hardswish(True)))

    def forward(self, x):
        for conv, norm, act in zip(self.convs, self.norms, self.acts, strict=True):
            x = x + F.dropout(act(norm(conv(x))), training=self.training)
        return x


class Several(nn.Module):
    """Operators of several results, some unread, and one argument taken twice."""

    def forward(self, x):
        a, _, b = x.chunk(3, -1)
        values, _ = x.topk(2)
        low, high = x.aminmax(dim=-1)
        variance, mean = torch.var_mean(x, -1)
        return torch.addcmul(a, b, b), values.sum() + (a * a), low - high + variance / mean


class Signs(nn.Module):
    """Kinds that differ in the sign of a zero, in a type, or in a layout alone."""

    def forward(self, x):
        full = torch.full_like(x, 0.0), torch.full_like(x, -0.0)
        flat = x.reshape(-1), x.transpose(0, 1).reshape(-1)
        return torch.copysign(x, full[0]), torch.copysign(x, full[1]), x * 2, x * 2.0, *flat


class Constants(nn.Module):
    """A tensor that is no buffer, among buffers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.scale = torch.arange(4.0)

    def forward(self, x):
        return self.norm(x * self.scale) + torch.tensor([1.0, 2.0, 3.0, 4.0])


class Seen(nn.Module):
    """What is written to is seen elsewhere: by a view, by a later reader, by the caller."""

    def forward(self, x, y):
        view = x * 1.0
        row = view[0]
        row.add_(1.0)
        late = y + 1.0
        late.mul_(2.0)
        passed = torch.einsum("ij->ij", x * 2.0).relu_()
        return view, late + late, F.dropout(y, training=False).relu_(), passed


class Buffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.count = nn.Buffer(torch.zeros(3, 4))

    def forward(self, x):
        self.count.add_(x)
        return self.count * x


class Sizes(nn.Module):
    """Kinds that differ in their sizes, layouts and numbers alone."""

    def __init__(self):
        super().__init__()
        widths = (3, 4, 6, 8)
        pairs = list(itertools.pairwise(widths))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=a != 4) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b in pairs)
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(n) for n in (4, 2, 1))

    def forward(self, x):
        found = []
        for conv, norm, pool in zip(self.convs, self.norms, self.pools, strict=True):
            x = F.silu(norm(conv(x)))
            low, high = x.split(x.shape[1] // 2, 1)
            best, places = x.flatten(2).topk(2)
            turned = torch.cat((low, high, low), 1).transpose(2, 3)
            found += [best, places, turned.contiguous(), turned[:0].relu(), turned.sigmoid()]
            found += [x.reshape(1, -1), turned.reshape(1, -1), x.expand(2, -1, -1, -1)]
            x = pool(x)
        return tuple(found)


CASES = {
    "sizes": (Sizes, ((1, 3, 6, 6),), True),
    "layers": (Layer, ((1, 5, 8),), True),
    "in place": (InPlace, ((1, 4, 6, 6),), True),
    "several results": (Several, ((3, 6),), True),
    "signs": (Signs, ((3, 4),), True),
    "constants": (Constants, ((3, 4),), True),
    "seen": (Seen, ((3, 4), (3, 4)), False),
    "buffer": (Buffer, ((3, 4),), False),
}


def inputs_of(name):
    torch.manual_seed(0)
    return tuple(torch.randn(shape) for shape in CASES[name][1])


@pytest.fixture
def joined(monkeypatch):
    """Counts programs that were made of pieces."""
    found = []
    join = taking_apart._joined
    monkeypatch.setattr(taking_apart, "_joined", lambda *a: found.append(a) or join(*a))
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_program_is_torchs(name, joined, monkeypatch):
    make, _, is_plain = CASES[name]
    model, inputs = make().eval(), inputs_of(name)
    quick = capture(model, inputs)
    assert bool(joined) is is_plain
    monkeypatch.setattr(export_errors, "taken_apart", lambda program, apart, _: apart(program))
    torchs = capture(model, inputs)
    found, expected = described(quick), described(torchs)
    if name == "constants":  # torch sorts them among the buffers
        found, expected = sorted(found, key=str), sorted(expected, key=str)
    assert found == expected


@pytest.mark.parametrize("name", ["layers", "in place", "constants", "sizes"])
def test_the_package_has_the_same_bytes(name, monkeypatch, tmp_path):
    model, inputs = CASES[name][0]().eval(), inputs_of(name)
    quick = save(convert(model, inputs, skip_model_load=True), tmp_path / "quick.mlpackage")
    monkeypatch.setattr(export_errors, "taken_apart", lambda program, apart, _: apart(program))
    torchs = save(convert(model, inputs, skip_model_load=True), tmp_path / "torchs.mlpackage")
    pairs = [(quick / f.relative_to(torchs), f) for f in torchs.rglob("*") if f.is_file()]
    assert len(pairs) >= 2
    assert all(ours.read_bytes() == theirs.read_bytes() for ours, theirs in pairs)


def test_kinds_of_a_family_are_asked_once(monkeypatch):
    asked = []
    ask = taking_apart._asked
    monkeypatch.setattr(taking_apart, "_asked", lambda *a: asked.append(a) or ask(*a))
    capture(Sizes().eval(), inputs_of("sizes"))
    ((_, calls, examples, _),) = asked
    targets = [str(calls[node][0]) for node in examples.values()]
    assert targets.count("aten.batch_norm.default") == targets.count("aten.silu.default") == 1
    assert targets.count("aten.conv2d.default") == 2  # with and without a bias
    assert targets.count("aten.reshape.default") > 2  # a view or a copy


def test_sizes_that_vary_are_torchs_own(joined):
    model = Layer().eval()
    shapes = {"x": {1: torch.export.Dim("tokens", min=2, max=9)}}
    program = capture(model, (torch.randn(1, 5, 8),), dynamic_shapes=shapes)
    assert not joined
    x = torch.randn(1, 7, 8)
    (found,) = program.module(check_guards=False)(x)
    assert torch.allclose(found, model(x), rtol=1e-5, atol=1e-6)


def test_the_exported_program_stays_as_it_was(joined):
    torch.manual_seed(0)
    model, x = InPlace().eval(), torch.randn(1, 4, 6, 6)
    exported = torch.export.export(model, (x,), strict=False)
    before = str(exported), copy.copy(exported.state_dict)
    (found,) = capture(exported).module(check_guards=False)(x)
    assert joined and torch.allclose(found, model(x), rtol=1e-5, atol=1e-6)
    assert (str(exported), exported.state_dict) == before
