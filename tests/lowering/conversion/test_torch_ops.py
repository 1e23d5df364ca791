"""Each lowering of ours against eager torch, through the interpreter.

The calls are in torch_op_samples.py.
"""

from unittest import mock

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from lowering.conversion.composites import Composite
from lowering.conversion.converter import convert
from lowering.conversion.torch_ops import (
    TORCH_OPS,
    draws,
    embedding_bag,
    inverses,
    size_numbers,
    triangular,
)
from lowering.errors import LoweringError
from lowering.reference import predict
from lowering.verification.check_composite import check_composite
from tests.lowering.conversion.torch_op_samples import (
    FEW,
    HEADS,
    IDENTITIES,
    IMAGE,
    SIGNAL,
    VALUELESS,
    X,
    aten,
)
from tests.lowering.conversion.torch_op_samples import SAMPLES as PLAIN
from tests.lowering.conversion.torch_op_samples_integers import SAMPLES as INTEGERS
from tests.lowering.conversion.torch_op_samples_mixed import ELSEWHERE
from tests.lowering.conversion.torch_op_samples_mixed import SAMPLES as MIXED

FLOAT32 = ct.precision.FLOAT32
SAMPLES = {**PLAIN, **MIXED, **INTEGERS}


@pytest.fixture(scope="module", autouse=True)
def no_garbage_collection():
    """ct.convert ends with a full collection, half a second in a process with torch loaded."""
    with mock.patch("coremltools.converters._converters_entry.gc"):
        yield


def test_identities():
    class Same(nn.Module):
        def forward(self, x):
            y = torch.ops.aten.alias(x + 1)
            y = torch.ops.aten.lift_fresh_copy(torch.ops.aten.clone(y))
            return torch.ops.aten.to.dtype(torch.ops.aten.detach(y), torch.float32).contiguous()

    program = torch.export.export(Same(), (X,), strict=False).run_decompositions({})
    assert len(program.graph.find_nodes(op="call_function", target=aten.alias.default)) == 1
    mlmodel = convert(program, compute_precision=FLOAT32, skip_model_load=True)
    np.testing.assert_allclose(next(iter(predict(mlmodel, {"x": X.numpy()}).values())), X + 1)


def test_max_pool_values_without_a_stride():
    module = nn.MaxPool2d(2, return_indices=True).eval()

    class Values(nn.Module):
        def forward(self, x):
            return module(x)[0], torch.ops.aten.max_pool2d_with_indices(x, [2, 2])[0]

    mlmodel = convert(Values(), (IMAGE,), compute_precision=FLOAT32, skip_model_load=True)
    for got in predict(mlmodel, {"x": IMAGE.numpy()}).values():
        np.testing.assert_allclose(got, module(IMAGE)[0], rtol=1e-6)


def test_assertions_vanish():
    class Asserts(nn.Module):
        def forward(self, x):
            torch.ops.aten._assert_tensor_metadata(x, dtype=torch.float32)
            torch.ops.aten._assert_async.msg(torch.ones(()), "never")
            return x * 2

    program = torch.export.export(Asserts(), (X,), strict=False).run_decompositions({})
    mlmodel = convert(program, compute_precision=FLOAT32, skip_model_load=True)
    ops = [op.op_type for op in mlmodel._mil_program.functions["main"].operations]
    assert [op for op in ops if op != "const"] == ["mul"]


@pytest.mark.parametrize("op", SAMPLES, ids=str)
def test_lowering(op):
    check_composite(Composite(op, TORCH_OPS[op], tuple(SAMPLES[op])))


def test_attention_stays_one_operator_on_ios18():
    class Scaled(nn.Module):
        def forward(self, q, k):
            return nn.functional.scaled_dot_product_attention(q, k, k, scale=0.3, enable_gqa=True)

    mlmodel = convert(
        Scaled(),
        (HEADS, FEW),
        compute_precision=FLOAT32,
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    ops = [op.op_type for op in mlmodel._mil_program.functions["main"].operations]
    assert "scaled_dot_product_attention" in ops and "softmax" not in ops
    (got,) = predict(mlmodel, {"q": HEADS.numpy(), "k": FEW.numpy()}).values()
    np.testing.assert_allclose(got, Scaled()(HEADS, FEW), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("nearest", {}),
        ("nearest", {"recompute_scale_factor": True}),
        ("linear", {}),
        ("linear", {"align_corners": True, "recompute_scale_factor": True}),
    ],
)
def test_sequences_of_any_length_grow(mode, options):
    class Grows(nn.Module):
        def forward(self, x):
            return nn.functional.interpolate(x, scale_factor=2, mode=mode, **options)

    x = SIGNAL[:, :, :7]
    length = torch.export.Dim("length", min=2, max=20)
    for precision, error in ((FLOAT32, 1e-6), (ct.precision.FLOAT16, 5e-3)):
        mlmodel = convert(
            Grows(),
            (SIGNAL,),
            dynamic_shapes={"x": {2: length}},
            compute_precision=precision,
            skip_model_load=True,
        )
        (got,) = predict(mlmodel, {"x": x.numpy()}).values()
        np.testing.assert_allclose(got, Grows()(x), rtol=error, atol=error)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 5), (2, 2)], ids=str)
def test_singular_values(shape):
    class Norms(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x), torch.linalg.matrix_norm(x, "nuc")

    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mlmodel = convert(Norms(), (x,), compute_precision=FLOAT32, skip_model_load=True)
    for inputs in (x, torch.zeros(shape)):
        found = predict(mlmodel, {"x": inputs.numpy()}).values()
        for got, want in zip(found, Norms()(inputs), strict=True):
            np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_small_systems(size):
    class Systems(nn.Module):
        def forward(self, a, b, v):
            solve, inverse = torch.linalg.solve, torch.linalg.inv(a)
            right = solve(a, b.mT, left=False)
            return torch.linalg.det(a), inverse, solve(a, b), solve(a, v), right

    generator = torch.Generator().manual_seed(size)
    shapes = ((3, size, size), (3, size, 2), (3, size))
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    mlmodel = convert(Systems(), tuple(inputs), compute_precision=FLOAT32, skip_model_load=True)
    given = dict(zip("abv", (x.numpy() for x in inputs), strict=True))
    for got, want in zip(predict(mlmodel, given).values(), Systems()(*inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_singular_vectors_are_refused():
    class Vectors(nn.Module):
        def forward(self, x):
            return torch.linalg.svd(x)[0]

    with pytest.raises(LoweringError, match="vectors never"):
        convert(Vectors(), (torch.eye(3),), skip_model_load=True)


def test_every_lowering_has_samples():
    # Lowered in part: without the results for the backward pass (test_embedding_bag.py calls it),
    # and without the singular vectors (tested above); of sizes that are computed alone
    # (test_dynamic_sizes.py).
    by_size = {aten.split.Tensor, aten.split_with_sizes.default}
    in_part = {*embedding_bag.TABLE, aten._linalg_svd.default, *inverses.TABLE, *by_size}
    # test_draws.py, test_size_numbers.py, test_triangular.py
    apart = {*draws.TABLE, *size_numbers.TABLE, *triangular.TABLE}
    assert set(TORCH_OPS) == set(SAMPLES) | VALUELESS | IDENTITIES | ELSEWHERE | in_part | apart
