import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

from frontend.capturing import capture
from lowering.conversion.converter import convert
from lowering.errors import LoweringError
from lowering.reference import make_state, predict

FP32 = {"compute_precision": ct.precision.FLOAT32, "skip_model_load": True}
INT32, FLOAT16, FLOAT32 = 131104, 65552, 65568


def features(entries):
    return {entry.name: entry.type.multiArrayType.dataType for entry in entries}


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, tokens, keep):
        hidden = self.linear(tokens)
        return {
            "hidden": torch.where(keep[..., None], hidden, 0.0),
            "count": keep.sum(),
            "no": None,
        }


def test_names_order_and_dtypes_are_those_of_the_program():
    tokens, keep = torch.randn(2, 5, 4), torch.rand(2, 5) > 0.5
    module = TwoInputs().eval()
    mlmodel = convert(module, (tokens, keep), skip_model_load=True)
    description = mlmodel.get_spec().description
    assert features(description.input) == {"tokens": FLOAT16, "keep": INT32}
    assert features(description.output) == {"hidden": FLOAT16, "count": INT32}
    assert [entry.name for entry in description.output] == ["hidden", "count"]

    exact = convert(module, (tokens, keep), **FP32)
    assert features(exact.get_spec().description.input) == {"tokens": FLOAT32, "keep": INT32}
    got = predict(exact, {"tokens": tokens.numpy(), "keep": keep.numpy().astype(np.int32)})
    want = module(tokens, keep)
    np.testing.assert_allclose(got["hidden"], want["hidden"].detach(), rtol=1e-5, atol=1e-6)
    assert int(got["count"].item()) == int(want["count"])


class Odd(nn.Module):
    """An input returned as it is, one value returned twice, a constant, a number."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(6.0))

    def forward(self, x, scale):
        y = x * scale
        return x, y, y, self.table, 3


def test_aliased_repeated_and_constant_outputs():
    x, scale = torch.randn(2, 3), torch.tensor(2.0)
    program = torch.export.export(Odd(), (x, scale), strict=False).run_decompositions({})
    mlmodel = convert(program, **FP32)
    names = [entry.name for entry in mlmodel.get_spec().description.output]
    assert len(set(names)) == 4
    got = predict(mlmodel, {"x": x.numpy(), "scale": np.array([2.0])})
    for name, want in zip(names, [x, x * 2, x * 2, torch.arange(6.0)], strict=True):
        np.testing.assert_allclose(got[name], want, rtol=1e-6)


class Norm(nn.Module):
    def forward(self, x):
        return (x - x.mean(1, keepdim=True)).softmax(-1)


def test_dynamic_sizes_become_ranges():
    x = torch.randn(1, 6, 4)
    shapes = {"x": {1: Dim("tokens", min=2, max=32)}}
    mlmodel = convert(Norm(), (x,), dynamic_shapes=shapes, **FP32)
    array = mlmodel.get_spec().description.input[0].type.multiArrayType
    size = array.shapeRange.sizeRanges[1]
    assert (size.lowerBound, size.upperBound) == (2, 32)
    assert list(array.shape) == [1, 6, 4]
    for tokens in (2, 9, 32):
        x = torch.randn(1, tokens, 4)
        got = next(iter(predict(mlmodel, {"x": x.numpy()}).values()))
        np.testing.assert_allclose(got, Norm()(x), rtol=1e-5, atol=1e-6)


def test_unbounded_size_is_refused_with_the_next_step():
    with pytest.raises(LoweringError, match=r"axis 1 of input 'x' has no upper bound") as caught:
        convert(Norm(), (torch.randn(1, 6, 4),), dynamic_shapes={"x": {1: Dim("tokens", min=2)}})
    assert "max=" in str(caught.value)


def test_enumerated_shapes_replace_the_range():
    shapes = ct.EnumeratedShapes([(1, 4, 4), (1, 8, 4)], default=(1, 8, 4))
    given = ct.TensorType(name="x", shape=shapes)
    mlmodel = convert(
        Norm(),
        (torch.randn(1, 6, 4),),
        dynamic_shapes={"x": {1: Dim("tokens", min=2, max=32)}},
        inputs=[given],
        **FP32,
    )
    array = mlmodel.get_spec().description.input[0].type.multiArrayType
    assert {tuple(s.shape) for s in array.enumeratedShapes.shapes} == {(1, 4, 4), (1, 8, 4)}
    assert given.dtype is None  # the caller's object is left alone


def test_image_input_and_renamed_output():
    mlmodel = convert(
        nn.Conv2d(3, 2, 1),
        (torch.randn(1, 3, 8, 8),),
        inputs=[ct.ImageType(name="photo", scale=1 / 255)],
        outputs=["scores"],
        skip_model_load=True,
    )
    description = mlmodel.get_spec().description
    assert description.input[0].type.WhichOneof("Type") == "imageType"
    assert [entry.name for entry in description.output] == ["scores"]


def test_types_that_fit_no_input_are_refused():
    with pytest.raises(LoweringError, match="neither by name nor by number") as caught:
        convert(
            Norm(),
            (torch.randn(1, 6, 4),),
            inputs=[ct.TensorType(name="a"), ct.TensorType(name="b")],
        )
    assert "expected: x" in str(caught.value)


class Counter(nn.Module):
    def __init__(self, dtype=torch.float16):
        super().__init__()
        self.register_buffer("total", torch.zeros(3, dtype=dtype))

    def forward(self, x):
        self.total.add_(x.to(self.total.dtype))
        return self.total * 2


def test_written_buffers_become_states():
    x = torch.tensor([1.0, 2.0, 3.0])
    mlmodel = convert(capture(Counter(), (x,)), minimum_deployment_target=ct.target.iOS18, **FP32)
    state = make_state(mlmodel)
    results = [next(iter(predict(mlmodel, {"x": x.numpy()}, state=state).values())) for _ in "ab"]
    np.testing.assert_allclose(results[1], 2 * results[0])


def test_states_need_ios18():
    x = torch.ones(3)
    with pytest.raises(LoweringError, match=r"writes buffer 'total'.*iOS18"):
        convert(Counter(), (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models(dtype):
    module = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8)).to(dtype).eval()
    x = torch.randn(2, 4).to(dtype)
    program = torch.export.export(module, (x,), strict=False).run_decompositions({})
    mlmodel = convert(program, skip_model_load=True)
    got = next(iter(predict(mlmodel, {"input": x.float().numpy()}).values()))
    want = module.float()(x.float()).detach()
    np.testing.assert_allclose(got.astype(np.float32), want, atol=0.02)


def test_op_selector_keeps_chosen_ops_in_float32():
    precision = ct.transform.FP16ComputePrecision(lambda op: op.op_type != "softmax")
    mlmodel = convert(
        Norm(), (torch.randn(1, 6, 4),), compute_precision=precision, skip_model_load=True
    )
    dtypes = {
        op.op_type: ct.converters.mil.mil.types.builtin_to_string(op.outputs[0].dtype)
        for op in mlmodel._mil_program.functions["main"].operations
        if op.op_type in ("softmax", "sub")
    }
    assert dtypes == {"softmax": "fp32", "sub": "fp16"}
    assert features(mlmodel.get_spec().description.input) == {"x": FLOAT32}


def test_pass_pipeline_of_the_caller_is_used_and_left_alone():
    pipeline = ct.PassPipeline()
    pipeline.remove_passes({"common::fuse_gelu_exact"})
    before = list(pipeline.passes)
    convert(nn.Linear(2, 2), (torch.randn(1, 2),), pass_pipeline=pipeline, **FP32)
    assert pipeline.passes == before


def test_old_targets_are_refused():
    with pytest.raises(LoweringError, match="start with iOS16"):
        convert(nn.Linear(2, 2), (torch.randn(1, 2),), minimum_deployment_target=ct.target.iOS15)


def test_conversion_is_quiet(capfd):
    convert(nn.Linear(2, 2), (torch.randn(1, 2, dtype=torch.float64).float(),), **FP32)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
