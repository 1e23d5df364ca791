import threading

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from torch import nn

from frontend.capturing import capture
from lowering.conversion.composites import composite
from lowering.conversion.composites_ane import ANE_COMPOSITES
from lowering.conversion.converter import convert
from lowering.errors import CompositeError, LoweringError, UnsupportedOpsError
from lowering.reference import predict
from lowering.verification.check_composite import check_composite


@torch.library.custom_op("lowering_tests::scaled_elu", mutates_args=())
def scaled_elu(
    x: torch.Tensor, alpha: float = 1.5, bounds: list[float] | None = None
) -> torch.Tensor:
    y = torch.where(x > 0, x, alpha * (torch.exp(x) - 1))
    return y if bounds is None else y.clamp(bounds[0], bounds[1])


@scaled_elu.register_fake
def _(x, alpha=1.5, bounds=None):
    return torch.empty_like(x)


@torch.library.custom_op("lowering_tests::halves", mutates_args=())
def halves(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = x.chunk(2, dim=1)
    return a.clone(), b.clone()


@halves.register_fake
def _(x):
    a, b = x.chunk(2, dim=1)
    return torch.empty_like(a), torch.empty_like(b)


ELU = torch.ops.lowering_tests.scaled_elu.default
HALVES = torch.ops.lowering_tests.halves.default
X = torch.randn(1, 8, 1, 16, generator=torch.Generator().manual_seed(0))


@composite(ELU, samples=[(X,), (X, 0.5), (X, 1.0, [-0.25, 0.5])])
def good(mb, x, alpha, bounds):
    y = mb.elu(x=x, alpha=alpha)
    return y if bounds is None else mb.clip(x=y, alpha=bounds[0], beta=bounds[1])


@composite(ELU, samples=[(X,), (X, 0.5)])
def ignores_alpha(mb, x, alpha, bounds):
    return mb.elu(x=x, alpha=1.5)


@composite(HALVES, samples=[(X,)])
def split_in_two(mb, x):
    return mb.split(x=x, num_splits=2, axis=1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x):
        first, second = torch.ops.lowering_tests.halves(self.linear(x))
        return torch.ops.lowering_tests.scaled_elu(first, 0.7) + second


def test_check_passes_for_a_right_composite():
    assert check_composite(good) < 1e-5
    assert check_composite(split_in_two) == 0


def test_check_shows_what_is_wrong():
    with pytest.raises(CompositeError) as caught:
        check_composite(ignores_alpha)
    text = str(caught.value)
    assert "'ignores_alpha' computes something else" in text
    assert "lowering_tests.scaled_elu.default, sample 1: (float32[1, 8, 1, 16], 0.5)" in text
    assert "expected: -" in text and "off by" in text


def test_composites_in_a_model():
    net = Net().eval()
    mlmodel = convert(
        net,
        (X,),
        composites=(good, split_in_two),
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    got = next(iter(predict(mlmodel, {"x": X.numpy()}).values()))
    np.testing.assert_allclose(got, net(X).detach(), rtol=1e-4, atol=1e-5)
    names = {op.name for op in mlmodel._mil_program.functions["main"].operations}
    assert "scaled_elu" in names  # named after the node of the program


def test_a_missing_composite_says_what_to_do():
    with pytest.raises(UnsupportedOpsError, match="custom operator without a lowering") as caught:
        convert(Net(), (X,), composites=(good,))
    assert [entry.op for entry in caught.value.unsupported] == ["lowering_tests.halves.default"]
    assert "composites=" in str(caught.value)


def test_an_error_in_a_composite_names_operator_and_source():
    @composite(ELU, samples=[(X,)])
    def broken(mb, x, alpha, bounds):
        return mb.no_such_op(x=x)

    with pytest.raises(LoweringError, match="no_such_op") as caught:
        convert(Net(), (X,), composites=(broken, split_in_two))
    assert "test_composites.py" in str(caught.value)


def test_wrong_shapes_are_caught_at_conversion():
    @composite(ELU, samples=[(X,)])
    def reduces(mb, x, alpha, bounds):
        return mb.reduce_sum(x=x, axes=[1], keep_dims=False)

    with pytest.raises(LoweringError, match="another shape than torch"):
        convert(Net(), (X,), composites=(reduces, split_in_two))


def test_definition_errors():
    with pytest.raises(CompositeError, match="one overload"):
        composite(torch.relu, samples=[(X,)])
    with pytest.raises(CompositeError, match="needs samples"):
        composite(ELU, samples=[])
    with pytest.raises(CompositeError, match="two composites"):
        convert(Net(), (X,), composites=(good, good))


def test_an_aten_overload_can_be_bound():
    @composite(torch.ops.aten.hardswish.default, samples=[(X * 4,)])
    def hardswish(mb, x):
        return mb.mul(x=x, y=mb.sigmoid_hard(x=x, alpha=1 / 6, beta=0.5))

    assert check_composite(hardswish) < 1e-5


@pytest.mark.parametrize("ours", ANE_COMPOSITES, ids=lambda entry: entry.name)
def test_our_own_composites(ours):
    check_composite(ours, minimum_deployment_target=ct.target.iOS18)


def test_layer_norm_composite_is_one_op():
    layer_norm = ANE_COMPOSITES[0]

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.randn(8))

        def forward(self, x):
            return torch.ops.ane.layer_norm(x, [1], self.weight, self.bias, 1e-5)

    # Capture would take the operator apart, as it does for any composite one; passes write it.
    program = torch.export.export(Norm(), (X,), strict=False).run_decompositions({})
    mlmodel = convert(program, compute_precision=ct.precision.FLOAT32, skip_model_load=True)
    ops = [op.op_type for op in mlmodel._mil_program.functions["main"].operations]
    assert [op for op in ops if op != "const"] == ["layer_norm"]
    assert layer_norm.op is torch.ops.ane.layer_norm.default


def test_nothing_leaks_into_coremltools():
    before = dict(_TORCH_OPS_REGISTRY.name_to_func_mapping)
    order = list(before)
    convert(Net(), (X,), composites=(good, split_in_two), skip_model_load=True)
    with pytest.raises(UnsupportedOpsError):
        convert(Net(), (X,))
    after = _TORCH_OPS_REGISTRY.name_to_func_mapping
    assert after == before and list(after) == order


def test_threads_convert_side_by_side():
    nets = [Net().eval() for _ in range(3)]
    programs = [capture(net, (X,)) for net in nets]  # torch.export itself has no threads
    models = {}

    def work(index):
        models[index] = convert(
            programs[index],
            composites=(good, split_in_two),
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, net in enumerate(nets):
        got = next(iter(predict(models[index], {"x": X.numpy()}).values()))
        np.testing.assert_allclose(got, net(X).detach(), rtol=1e-4, atol=1e-5)
