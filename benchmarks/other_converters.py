"""`optimize_for_ane` in front of stock coremltools, and in front of ExecuTorch's Core ML delegate.

Both take the rewritten module like any other. What they make of it is read back and run by the
interpreter; the delegate's package comes out of the bytes in the lowered program. ExecuTorch is not
among this project's requirements: put it where no other program looks, and say where.

    pip install --no-deps --target DIR executorch==1.5.1 flatbuffers tabulate ruamel.yaml \\
        pytorch-tokenizers
    python -m benchmarks.other_converters --executorch DIR

Exit codes: 0 all agree and are delegated whole, 1 one does not or is not, 2 the call needs
attention.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import click
import coremltools as ct
import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

import lowering
import passes
from benchmarks.minilm import MissingModelError
from lowering.cli.common import EXIT_CHECK_FAILED, guarded, json_option, print_json, stdout_console
from lowering.support.quiet import quiet_coremltools
from lowering.verification.parity import rel_l2

Model: TypeAlias = tuple[nn.Module, tuple[Tensor, ...]]
# Relative error that a package with fp16 values may have here; small models of few layers.
ALLOWED = 1e-2
_TARGET = ct.target.iOS17


@dataclass(frozen=True)
class Made:
    """A package of another converter.

    Attributes:
        model: its name.
        way: who made it, of what.
        ops: operators of its program.
        transposes: among them.
        price: the dispatcher's, in milliseconds on M4, *predicted*.
        error: relative L2 error of its output, in the interpreter.
        left: operators that were not delegated; 0 where there is no delegate.
    """

    model: str
    way: str
    ops: int
    transposes: int
    price: float
    error: float
    left: int = 0

    @property
    def passed(self) -> bool:
        """Whether it computes what the model does, all of it in the package."""
        return self.error <= ALLOWED and self.left == 0


def encoder() -> Model:
    """Two layers of torch's own encoder."""
    layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return model.eval(), (torch.randn(1, 64, 128),)


def bert() -> Model:
    """A small BERT of transformers, without its mask."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=500,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
    )

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = BertModel(config, add_pooling_layer=False)

        def forward(self, embeds: Tensor) -> Tensor:
            hidden: Tensor = self.model.encoder(embeds)[0]
            return hidden

    return Hidden().eval(), (torch.randn(1, 64, 128),)


def pictures() -> Model:
    """Convolutions, norms and a classifier."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1),
        nn.BatchNorm2d(32),
        nn.SiLU(),
        nn.Conv2d(32, 64, 3, 2, 1, groups=32),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    return model.eval(), (torch.randn(1, 3, 64, 64),)


MODELS: Mapping[str, Callable[[], Model]] = {
    "encoder": encoder,
    "bert": bert,
    "pictures": pictures,
}


def by_coremltools(module: nn.Module, args: tuple[Tensor, ...]) -> ct.models.MLModel:
    """What stock ``ct.convert`` makes of a module; a rewritten one is a module too."""
    program = torch.export.export(module, args).run_decompositions({})
    return ct.convert(
        program, minimum_deployment_target=_TARGET, convert_to="mlprogram", skip_model_load=True
    )


def by_executorch(module: nn.Module, args: tuple[Tensor, ...], folder: Path) -> tuple[Path, int]:
    """The package in ExecuTorch's lowered program, and how many operators are left beside it."""
    partition = importlib.import_module("executorch.backends.apple.coreml.partition")
    compiler = importlib.import_module("executorch.backends.apple.coreml.compiler")
    exir = importlib.import_module("executorch.exir")
    native = importlib.import_module("executorch.backends.apple.coreml.executorchcoreml")
    specs = compiler.CoreMLBackend.generate_compile_specs(
        compute_unit=ct.ComputeUnit.CPU_AND_NE,
        minimum_deployment_target=_TARGET,
        compute_precision=ct.precision.FLOAT16,
    )
    lowered = exir.to_edge_transform_and_lower(
        torch.export.export(module, args),
        partitioner=[partition.CoreMLPartitioner(compile_specs=specs)],
    )
    graph = lowered.exported_program().graph_module
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    delegates = [node for node in calls if "executorch_call_delegate" in str(node.target)]
    left = [n for n in calls if n not in delegates and "getitem" not in str(n.target)]
    if len(delegates) != 1:
        return folder, len(left) + abs(len(delegates) - 1)
    delegate = getattr(graph, str(delegates[0].args[0].target))
    native.unflatten_directory_contents(delegate.processed_bytes, str(folder))
    (package,) = folder.rglob("*.mlpackage")
    return package, len(left)


@click.command(help=__doc__)
@click.option("--executorch", type=click.Path(path_type=Path, exists=True), help="Its folder.")
@click.option("--only", multiple=True, type=click.Choice(tuple(MODELS)), help="Models to run.")
@json_option
@guarded
def main(executorch: Path | None, only: Sequence[str], as_json: bool) -> None:
    """See the module."""
    if executorch is not None:
        sys.path.append(str(executorch.absolute()))
        if not (executorch / "executorch").is_dir():
            raise MissingModelError("there is no executorch in this folder", found=str(executorch))
    found = []
    with tempfile.TemporaryDirectory() as folder, quiet_coremltools(progress=False):
        for name in only or MODELS:
            found += list(rows_of(name, Path(folder), executorch is not None))
    if as_json:
        print_json([vars(row) | {"passed": row.passed} for row in found])
    else:
        stdout_console().print(_table(found))
    if not all(row.passed for row in found):
        sys.exit(EXIT_CHECK_FAILED)


def rows_of(name: str, folder: Path, with_executorch: bool) -> list[Made]:
    """One model plain and rewritten, through each converter."""
    torch.manual_seed(0)
    model, args = MODELS[name]()
    with torch.no_grad():
        want = model(*args)
    rows = []
    for what, module in (("", model), ("optimized, ", passes.optimize_for_ane(model, args))):
        rows.append(_made(name, f"{what}coremltools", by_coremltools(module, args), args, want))
        if with_executorch:
            place = folder / f"{name}{len(rows)}"
            place.mkdir()
            package, left = by_executorch(module, args, place)
            rows.append(_made(name, f"{what}ExecuTorch", package, args, want, left))
    return rows


def _made(
    name: str,
    way: str,
    package: Path | ct.models.MLModel,
    args: tuple[Tensor, ...],
    want: Tensor,
    left: int = 0,
) -> Made:
    if isinstance(package, Path) and package.suffix != ".mlpackage":
        return Made(name, way, 0, 0, float("nan"), float("inf"), left)
    plan = lowering.plan(str(package) if isinstance(package, Path) else package, chip="M4")
    loaded = lowering.load(str(package) if isinstance(package, Path) else package)
    feed = {key: value.numpy() for key, value in zip(loaded.inputs, args, strict=True)}
    (result,) = loaded.run(feed).values()
    found = torch.from_numpy(np.asarray(result, np.float32)).reshape(want.shape)
    transposes = sum(op.op_type == "transpose" for op in plan.ops)
    return Made(name, way, len(plan.ops), transposes, plan.dispatch_ms, rel_l2(found, want), left)


def _table(rows: Sequence[Made]) -> Table:
    made = Table("model", "way", "ops", "transposes", "price, ms", "rel L2", "not delegated")
    for row in rows:
        made.add_row(
            row.model,
            row.way,
            str(row.ops),
            str(row.transposes),
            f"{row.price:.3f}",
            f"{row.error:.1e}",
            str(row.left) if "ExecuTorch" in row.way else "",
        )
    return made


if __name__ == "__main__":
    main()
