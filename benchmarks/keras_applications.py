"""Keras' own applications, without TensorFlow: rewritten, converted with fp32 and fp16, verified.

Each model is called by Keras on its torch backend, and its two packages by the interpreter, on a
picture that capture did not see. Weights are random. Of a CNN at most two transposes may be left:
the one by which Keras' pictures with channels last become Core ML's, and one behind.

Exit codes: 0 all agree, 1 one does not or has more transposes, 2 the call needs attention.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import click
import coremltools as ct
import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

import lowering
import passes
from frontend.errors import AnePassesError
from lowering.cli.common import EXIT_CHECK_FAILED, guarded, json_option, print_json, stdout_console

MODELS = (
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "ResNet50",
    "EfficientNetB0",
    "ConvNeXtTiny",
    "DenseNet121",
    "NASNetMobile",
    "Xception",
)
MOST_TRANSPOSES = 2
# NASNetMobile's own numbers (*documented*: keras.applications.nasnet).
_NASNET_MOBILE: dict[str, Any] = {
    "penultimate_filters": 1056,
    "num_blocks": 4,
    "stem_block_filters": 32,
    "skip_reduction": False,
    "weights": None,
    "default_size": 224,
}
_SIZE = 96  # pixels; Xception's smallest is 71


@dataclass(frozen=True)
class Application:
    """What came of one.

    Attributes:
        name: of the model.
        verified: whether both packages agree with it.
        ops: in the fp16 program.
        transposes: among them.
        plain: likewise without passes; ``None`` where that was not asked for.
        fp32: relative L2 error of the fp32 package.
        fp16: of the fp16 one.
        allowed: for the latter.
        seconds: for all of it.
        error: why there is no package.
    """

    name: str
    verified: bool
    ops: int = 0
    transposes: int = 0
    plain: tuple[int, int] | None = None
    fp32: float = float("nan")
    fp16: float = float("nan")
    allowed: float = float("nan")
    seconds: float = 0.0
    error: str = ""

    def __str__(self) -> str:
        verdict = "ok" if self.passed else self.error or "fails"
        found = f"{self.ops} ops, {self.transposes} transposes, fp16 {self.fp16:.1e}"
        return f"{self.name}: {found}, {self.seconds:.0f} s, {verdict}"

    @property
    def passed(self) -> bool:
        """Whether it agrees, with as few transposes as there may be."""
        return self.verified and self.transposes <= MOST_TRANSPOSES


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(MODELS), help="Models to run.")
@click.option("--size", type=click.IntRange(min=75), default=_SIZE, show_default=True)
@click.option("--plain", is_flag=True, help="Count operators without passes, too.")
@json_option
@guarded
def main(only: Sequence[str], size: int, plain: bool, as_json: bool) -> None:
    """See the module."""
    found = []
    for name in only or MODELS:
        found.append(run(name, size, plain))
        gc.collect()
        if not as_json:
            click.echo(str(found[-1]), err=True)
    if as_json:
        print_json([vars(item) | {"passed": item.passed} for item in found])
    else:
        stdout_console().print(table(found))
    if not all(item.passed for item in found):
        sys.exit(EXIT_CHECK_FAILED)


def run(name: str, size: int = _SIZE, plain: bool = False) -> Application:
    """One application through the whole tool."""
    start = time.perf_counter()
    try:
        model = application(name, size)
        made = _packages(name, model, size, plain)
    except AnePassesError as error:
        made = Application(name, False, error=str(error).splitlines()[0])
    return Application(**{**vars(made), "seconds": time.perf_counter() - start})


def application(name: str, size: int = _SIZE) -> nn.Module:
    """The model with random weights, on torch, on pictures of ``size``."""
    keras = keras_on_torch()
    keras.utils.set_random_seed(0)
    shape = (size, size, 3)
    if name == "NASNetMobile":
        # Keras 3.15 refuses this name on torch; what it would call is there.
        from keras.src.applications.nasnet import NASNet

        return NASNet(shape, **_NASNET_MOBILE)
    return getattr(keras.applications, name)(weights=None, input_shape=shape)


def keras_on_torch() -> ModuleType:
    """Keras with torch underneath, unless the caller's environment asks for another backend."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    return keras


def _packages(name: str, model: nn.Module, size: int, plain: bool) -> Application:
    generator = torch.Generator().manual_seed(1)

    def picture() -> Tensor:
        # Most of these models scale pixels themselves, or take them so.
        return torch.rand((1, size, size, 3), generator=generator) * 2 - 1

    optimized = passes.optimize_for_ane(model, (picture(),))
    x = picture()
    errors, verified, program = {}, True, None
    for precision in (ct.precision.FLOAT32, ct.precision.FLOAT16):
        package = lowering.convert(optimized, skip_model_load=True, compute_precision=precision)
        found = lowering.verify(package, model, (x,), locate=False)
        verified &= found.passed
        errors[precision] = max(found.outputs, key=lambda output: output.rel_l2)
        program = package
    ops, transposes = counts(program)
    without = None
    if plain:
        without = counts(lowering.convert(model, (x,), skip_model_load=True))
    return Application(
        name=name,
        verified=verified,
        ops=ops,
        transposes=transposes,
        plain=without,
        fp32=errors[ct.precision.FLOAT32].rel_l2,
        fp16=errors[ct.precision.FLOAT16].rel_l2,
        allowed=errors[ct.precision.FLOAT16].threshold,
    )


def counts(package: object) -> tuple[int, int]:
    """Operators and transposes of a package."""
    ops = lowering.plan(package, chip="M4").ops
    return len(ops), sum(op.op_type == "transpose" for op in ops)


def table(found: Sequence[Application]) -> Table:
    """A row for each."""
    made = Table("model", "ops", "transposes", "without passes", "fp32", "fp16", "allowed", "")
    for item in found:
        without = "" if item.plain is None else f"{item.plain[0]} / {item.plain[1]}"
        verdict = "ok" if item.passed else escape(item.error or "fails")
        errors = (f"{value:.1e}" for value in (item.fp32, item.fp16, item.allowed))
        made.add_row(item.name, str(item.ops), str(item.transposes), without, *errors, verdict)
    return made


if __name__ == "__main__":
    main()
