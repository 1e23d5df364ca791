"""Sources of graph modules are written when they are read, and are what they were."""

import copy
import inspect

import torch
from torch import fx, nn

from frontend import capture
from frontend.late_code import late_code
from passes import optimize_for_ane


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, scale=2.0):
        return self.linear(x) * scale


def edited(module):
    """``module`` with its product a sum."""
    (product,) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    product.target = torch.ops.aten.add.Tensor
    module.recompile()
    return module


def exported():
    torch.manual_seed(0)
    return torch.export.export(Net().eval(), (torch.ones(1, 4),)).module(check_guards=False)


def test_what_is_read_or_run_inside_is_what_it_would_be():
    x = torch.ones(1, 4)
    plain = edited(exported())
    with late_code():
        late = edited(exported())
        assert "_code" not in vars(late)
        assert torch.equal(late(x), plain(x))
        again = edited(exported())
        assert again.code == plain.code
        third = edited(exported())
        assert inspect.signature(third.forward) == inspect.signature(plain.forward)
        assert torch.equal(copy.deepcopy(third)(x), plain(x))


def test_an_edit_after_a_run_counts():
    with late_code():
        module = exported()
        before = module(torch.ones(1, 4))
        after = edited(module)(torch.ones(1, 4))
    assert not torch.equal(before, after)


def test_what_nobody_asked_for_waits_on():
    with late_code():
        with late_code():
            module = edited(exported())
        assert "_code" not in vars(module)
    assert "_code" not in vars(module)
    assert fx.GraphModule.recompile.__name__ == "recompile"
    plain = edited(exported())
    assert "_code" in vars(plain) and module.code == plain.code
    module.recompile()
    assert inspect.isfunction(type(module).forward)


def test_what_waits_can_be_copied_traced_and_exported():
    x = torch.ones(1, 4)
    (want,) = edited(exported())(x)

    def late():
        with late_code():
            return edited(exported())

    for use in (
        copy.copy,
        copy.deepcopy,
        lambda module: torch.jit.trace(module, (x,)),
        lambda module: torch.export.export(module, (x,), strict=False).module(),
        lambda module: torch.export.export(module, (x,), strict=True).module(),
        lambda module: torch.compile(module, backend="eager", fullgraph=True),
        fx.symbolic_trace,
    ):
        (found,) = use(late())(x)
        assert torch.equal(found, want)


def test_the_code_of_an_optimized_model_waits_for_its_first_call():
    torch.manual_seed(0)
    net, x = Net().eval(), torch.ones(1, 4)
    optimized = optimize_for_ane(net, (x,))
    assert "_code" not in vars(optimized._call)
    torch.testing.assert_close(optimized(x), net(x))
    assert "_code" in vars(optimized._call)


def test_captures_are_what_they_were():
    x = torch.randn(1, 4)
    program = capture(Net().eval(), (x,))
    assert program.graph_module.code.count("torch.ops.aten.") >= 2
    (result,) = program.module(check_guards=False)(x)
    assert result.shape == (1, 4)
