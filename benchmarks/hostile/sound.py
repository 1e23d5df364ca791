"""Small sound packages of every kind that the reader knows: what the campaign damages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import coremltools as ct
import coremltools.optimize as cto
import numpy as np
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var
from torch import nn

import lowering
import passes

MODEL = Path("Data") / "com.apple.CoreML" / "model.mlmodel"
WEIGHTS = Path("Data") / "com.apple.CoreML" / "weights" / "weight.bin"
MANIFEST = Path("Manifest.json")


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.LayerNorm(32)).eval()


def _dense() -> ct.models.MLModel:
    return lowering.convert(passes.optimize_for_ane(_net(), (torch.ones(1, 64),)))


def _traced(module: nn.Module, shape: tuple[int, ...], **options: object) -> ct.models.MLModel:
    return ct.convert(
        torch.jit.trace(module, torch.ones(shape)),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
        **options,
    )


def _picture() -> ct.models.MLModel:
    torch.manual_seed(0)
    return _traced(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2)).eval(),
        shape=(1, 3, 8, 8),
        inputs=[ct.ImageType(name="picture", shape=(1, 3, 8, 8), scale=1 / 255)],
    )


def _labels() -> ct.models.MLModel:
    torch.manual_seed(0)
    return _traced(
        nn.Sequential(nn.Linear(16, 3), nn.Softmax(-1)).eval(),
        shape=(1, 16),
        inputs=[ct.TensorType(name="x", shape=(1, 16))],
        classifier_config=ct.ClassifierConfig(["ant", "bee", "cat"]),
    )


def _flexible() -> ct.models.MLModel:
    size = ct.RangeDim(1, 8, default=2)
    return _traced(
        nn.Linear(64, 32).eval(),
        shape=(2, 64),
        inputs=[ct.TensorType(name="x", shape=(size, 64), default_value=np.ones((2, 64)))],
    )


class _Counter(nn.Module):
    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(x)
        return self.seen * 2


def _state() -> ct.models.MLModel:
    return lowering.convert(
        passes.optimize_for_ane(_Counter(), (torch.ones(4),)),
        minimum_deployment_target=ct.target.iOS18,
    )


def _quantized() -> ct.models.MLModel:
    op = cto.coreml.OpLinearQuantizerConfig(weight_threshold=16)
    return cto.coreml.linear_quantize_weights(
        _dense(), cto.coreml.OptimizationConfig(global_config=op)
    )


def _control() -> ct.models.MLModel:
    @mb.program(input_specs=[mb.TensorSpec(shape=(4,))], opset_version=ct.target.iOS17)
    def program(x: Var) -> Var:
        total = mb.reduce_sum(x=x, axes=[0])
        chosen = mb.cond(
            pred=mb.greater(x=total, y=0.0), _true_fn=lambda: mb.relu(x=x), _false_fn=lambda: x
        )
        count, _ = mb.while_loop(
            _cond=lambda i, v: mb.less(x=i, y=3),
            _body=lambda i, v: (mb.add(x=i, y=1), mb.mul(x=v, y=0.5)),
            loop_vars=(np.int32(0), chosen),
            name="loop",
        )
        return mb.add(x=mb.cast(x=count, dtype="fp32"), y=chosen, name="result")

    return ct.convert(
        program, minimum_deployment_target=ct.target.iOS17, skip_model_load=True,
        pass_pipeline=ct.PassPipeline.EMPTY,
    )  # fmt: skip


def _pipeline() -> ct.models.MLModel:
    return ct.utils.make_pipeline(
        _traced(
            nn.Linear(16, 16).eval(), shape=(1, 16), inputs=[_tensor("a")], outputs=[_out("b")]
        ),
        _traced(nn.Tanh().eval(), shape=(1, 16), inputs=[_tensor("b")], outputs=[_out("c")]),
    )


def _tensor(name: str) -> ct.TensorType:
    return ct.TensorType(name=name, shape=(1, 16))


def _out(name: str) -> ct.TensorType:
    return ct.TensorType(name=name)


MAKERS: Mapping[str, Callable[[], ct.models.MLModel]] = {
    "dense": _dense,
    "picture": _picture,
    "labels": _labels,
    "flexible": _flexible,
    "state": _state,
    "quantized": _quantized,
    "control": _control,
    "pipeline": _pipeline,
}


def build(folder: Path) -> None:
    """Write one package of each kind below ``folder``."""
    for name, package in packages(folder).items():
        MAKERS[name]().save(str(package))


def packages(folder: Path) -> dict[str, Path]:
    """Where :func:`build` writes each package, by kind."""
    return {name: folder / f"{name}.mlpackage" for name in MAKERS}
