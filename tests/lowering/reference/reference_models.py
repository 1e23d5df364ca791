"""Small converted models for the interpreter's tests."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types


def converted(
    module: torch.nn.Module, *inputs: torch.Tensor, precision: str = "fp16", **options
) -> ct.models.MLModel:
    """``module`` converted as it is, its inputs named ``x0``, ``x1``, ..."""
    program = torch.export.export(module.eval(), inputs).run_decompositions({})
    compute = ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32
    options.setdefault("minimum_deployment_target", ct.target.iOS17)
    return ct.convert(
        program,
        inputs=options.pop(
            "inputs",
            [
                ct.TensorType(name=f"x{index}", shape=tensor.shape, dtype=np.float32)
                for index, tensor in enumerate(inputs)
            ],
        ),
        compute_precision=compute,
        **options,
    )


def program_of(build, shape: tuple[int, ...], dtype=types.fp32, **options):
    """A MIL program of one input ``x`` made by ``build(x)``."""
    options.setdefault("opset_version", ct.target.iOS17)

    @mb.program(input_specs=[mb.TensorSpec(shape=shape, dtype=dtype)], **options)
    def program(x):
        return build(x)

    return program


def save_spec(path, change) -> None:
    """Applies ``change(spec)`` to the model file of a package."""
    import coremltools.proto.Model_pb2 as model_pb2

    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    change(spec)
    file.write_bytes(spec.SerializeToString())
