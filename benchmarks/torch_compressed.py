"""Models that were compressed in torch, through the default passes and through stock coremltools.

    python -m benchmarks.torch_compressed [FORMS]... [--json]

Each form compresses the same small network: a convolution, an attention with four linears, two
linears more, and a batch norm before the last. *Weights*: what the form compressed. *Kept*: how
many weights of the converted program are made by ``constexpr`` operators. *Equal*: how many of
these are, bit by bit, what the rewritten program computes with in torch, as coremltools decodes
them in a float32 package. *fp16*: the largest difference from those rounded to float16, in units of
the last place; integers have a scale of float16 there. *Stock*: what ``ct.convert`` keeps of the
model as it is, traced and exported. Forms of torchao need torchao 0.18, which may be installed
beside.

Exit codes: 0 every encoding is kept and equal, 1 one is not.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import click
import coremltools as ct
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import passes
from benchmarks.stock import FAILURES, stock_convert
from frontend.encoding import Encoding
from lowering import convert
from lowering.support.quiet import quiet_coremltools

SEED = 0
WIDTH = 64
TARGET = ct.target.iOS18
# coremltools' trainers and torchao tell of their progress.
logging.disable(logging.WARNING)


class Net(nn.Module):
    """Images (1, 8, 10, 10) to (1, 32): what passes do to weights, once each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(8, WIDTH, 3)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.norm, self.head = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 32)

    def forward(self, x: Tensor) -> Tensor:
        """The network."""
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = (
            layer(tokens).unflatten(-1, (4, WIDTH // 4)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        pooled = self.narrow(self.wide(tokens).relu()).mean(1)
        return self.head(self.norm(pooled))


def example() -> Tensor:
    """An input of ``Net``."""
    return torch.randn(1, 8, 10, 10)


def _palettized(model: nn.Module | None = None, **options: object) -> nn.Module:
    from coremltools.optimize.torch import palettization as lib

    config = lib.PostTrainingPalettizerConfig.from_dict({"global_config": options})
    return lib.PostTrainingPalettizer(model or Net().eval(), config).compress()


def _quantized(model: nn.Module | None = None, **options: object) -> nn.Module:
    from coremltools.optimize.torch import quantization as lib

    config = lib.PostTrainingQuantizerConfig.from_dict({"global_config": options})
    return lib.PostTrainingQuantizer(model or Net().eval(), config).compress()


def _pruned() -> nn.Module:
    from coremltools.optimize.torch import pruning as lib

    config = lib.MagnitudePrunerConfig.from_dict({"global_config": {"target_sparsity": 0.75}})
    pruner = lib.MagnitudePruner(Net(), config)
    pruner.prepare(inplace=True)
    pruner.step()
    # What the pruner leaves in a module computes its weight to be copied, which needs this.
    return pruner.finalize(inplace=True).eval().requires_grad_(False)


def _dkm() -> nn.Module:
    from coremltools.optimize.torch import palettization as lib

    settings = {"n_bits": 4, "milestone": 0, "quantize_activations": False}
    palettizer = lib.DKMPalettizer(
        Net(), lib.DKMPalettizerConfig.from_dict({"global_config": settings})
    )
    model = palettizer.prepare(inplace=True).train()
    for _ in range(2):
        palettizer.step()
        model(example().expand(2, -1, -1, -1))
    return palettizer.finalize(inplace=True).eval()


def _trained(**options: object) -> nn.Module:
    from coremltools.optimize.torch import quantization as lib

    settings = {"milestones": [0, 1, 1, 1], "activation_dtype": "float32", **options}
    config = lib.LinearQuantizerConfig.from_dict({"global_config": settings})
    quantizer = lib.LinearQuantizer(Net(), config)
    model = quantizer.prepare((example(),)).train()
    model(example().expand(2, -1, -1, -1))
    quantizer.step()
    model.eval()
    return quantizer.finalize().eval()


def _torchao(kind: str, dtype: torch.dtype = torch.float32, *options: object) -> nn.Module:
    lib = importlib.import_module("torchao.quantization")

    model = Net().eval().to(dtype)
    lib.quantize_(model, getattr(lib, kind)(*options))
    return model


def _intx(bits: int, group: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    lib = importlib.import_module("torchao.quantization.granularity")
    group_of = lib.PerGroup(group)
    return _torchao("IntxWeightOnlyConfig", dtype, getattr(torch, f"int{bits}"), group_of)


def _pt2e() -> nn.Module:
    """Quantised after export, by torchao's quantiser for tests: weights and activations."""
    lib = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    quantizers = importlib.import_module("torchao.testing.pt2e._xnnpack_quantizer")
    settings = quantizers.get_symmetric_quantization_config(is_per_channel=True)
    exported = torch.export.export(Net().eval(), (example(),)).module()
    model = lib.prepare_pt2e(exported, quantizers.XNNPACKQuantizer().set_global(settings))
    model(example())
    return lib.convert_pt2e(model)


_GROUPS: dict[str, Any] = {"granularity": "per_grouped_channel", "group_size": 8}
_BLOCKS: dict[str, Any] = {"granularity": "per_block", "block_size": 8}
_AFFINE: dict[str, Any] = {"quantization_scheme": "affine"}
FORMS: Mapping[str, Callable[[], nn.Module]] = {
    "palette, 4 bits": lambda: _palettized(n_bits=4),
    "palette, 6 bits": lambda: _palettized(n_bits=6),
    "palettes of groups, 3 bits": lambda: _palettized(n_bits=3, **_GROUPS),
    "scaled palettes, 2 bits": lambda: _palettized(
        n_bits=2, enable_per_channel_scale=True, **_GROUPS
    ),
    "palette of vectors, 4 bits": lambda: _palettized(n_bits=4, cluster_dim=2),
    "palette of int8, 4 bits": lambda: _palettized(n_bits=4, lut_dtype=torch.int8),
    "DKM, 4 bits": _dkm,
    "int8": lambda: _quantized(weight_dtype="int8"),
    "uint8, zero points": lambda: _quantized(weight_dtype="uint8", **_AFFINE),
    "int8, one scale": lambda: _quantized(weight_dtype="int8", granularity="per_tensor"),
    "int4 of blocks": lambda: _quantized(weight_dtype="int4", **_BLOCKS),
    "pruned": _pruned,
    "pruned, int8": lambda: _quantized(_pruned(), weight_dtype="int8"),
    "pruned, palette, 4 bits": lambda: _palettized(_pruned(), n_bits=4),
    "trained int8": _trained,
    "trained int4": lambda: _trained(weight_dtype="qint4"),
    "trained int8, activations too": lambda: _trained(activation_dtype="quint8"),
    "torchao Int8WeightOnly": lambda: _torchao("Int8WeightOnlyConfig"),
    "torchao Intx, int4 of 32": lambda: _intx(4, 32),
    "torchao Intx, int4, bfloat16": lambda: _intx(4, 32, torch.bfloat16),
    "torchao PT2E, int8": _pt2e,
}


@dataclass(frozen=True)
class Row:
    """A form; see the module's text for the columns.

    Attributes:
        form: its name.
        weights, kept, equal: numbers of weights.
        ulp: largest difference in float16, units of the last place.
        trace, export: what stock keeps, or the error's type.
    """

    form: str
    weights: int
    kept: int
    equal: int
    ulp: float
    trace: str
    export: str

    @property
    def is_right(self) -> bool:
        """All of it is kept, and equal."""
        return 0 < self.weights == self.kept == self.equal


def measure(form: str) -> Row:
    """Compresses, rewrites and converts the network in ``form``."""
    torch.manual_seed(SEED)
    with quiet_coremltools(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FORMS[form]()
        x = example().to(next(model.parameters()).dtype)
        optimized = passes.optimize_for_ane(model, (x,))
        program = optimized.program
        state = program.state_dict
        weights = {
            spec.arg.name: spec.target for spec in optimized.program.graph_signature.input_specs
        }
        held = {
            node: state[target].detach()
            for node, target in weights.items()
            if target is not None and Encoding.of(state, target) is not None
        }
        exact = _decoded(convert(optimized, **_options(ct.precision.FLOAT32)))
        rounded = _decoded(convert(optimized, **_options(ct.precision.FLOAT16)))
        kept = [name for name in held if name in exact and f"{name}_cast_fp16" in rounded]
        return Row(
            form,
            weights=_compressed(model),
            kept=len(kept),
            equal=sum(np.array_equal(exact[name], held[name].numpy()) for name in kept),
            ulp=max((_ulp(rounded[f"{n}_cast_fp16"], held[n]) for n in kept), default=0.0),
            trace=_stock(
                lambda: stock_convert(model, (x,), minimum_deployment_target=TARGET).mlmodel
            ),
            export=_stock(lambda: _by_export(model, x)),
        )


def _options(precision: object) -> dict[str, Any]:
    return {
        "compute_precision": precision,
        "minimum_deployment_target": TARGET,
        "skip_model_load": True,
    }


def _compressed(model: nn.Module) -> int:
    """Weights that the form says it compressed."""
    named = {
        key.rpartition("_COREML_/")[0] + key.rpartition("_COREML_/")[2].partition("/")[0]
        for key in model.state_dict()
        if "_COREML_/" in key and "metadata_version" not in key
    }
    held = [name for name, weight in model.named_parameters() if hasattr(weight, "qdata")]
    held += [name for name, _ in model.named_buffers() if name.startswith("_frozen_param")]
    return len(named) + len(held)


def _decoded(package: ct.models.MLModel) -> dict[str, np.ndarray]:
    """The weights that ``constexpr`` operators make, by name, as coremltools decodes them."""
    return {op.outputs[0].name: op.materialized_val_inference() for op in _made(package)}


def _made(package: ct.models.MLModel) -> list[Any]:
    """The operators that make a whole weight: their result is used by some that do not."""
    (function,) = package._mil_program.functions.values()
    return [
        op
        for op in function.operations
        if op.op_type.startswith("constexpr")
        and any(not user.op_type.startswith("constexpr") for user in op.outputs[0].child_ops)
    ]


def _ulp(found: np.ndarray, weight: Tensor) -> float:
    expected = weight.half().numpy()
    return float(np.max(np.abs(found - expected) / np.spacing(np.abs(expected) + np.float16(0))))


def _by_trace(model: nn.Module, x: Tensor) -> ct.models.MLModel:
    return stock_convert(model, (x,), minimum_deployment_target=TARGET).mlmodel


def _by_export(model: nn.Module, x: Tensor) -> ct.models.MLModel:
    program = torch.export.export(model, (x,)).run_decompositions({})
    return ct.convert(program, minimum_deployment_target=TARGET, skip_model_load=True)


def _stock(make: Callable[[], ct.models.MLModel]) -> str:
    try:
        return str(len(_made(make())))
    except FAILURES as error:
        return type(error).__name__


@click.command(help=__doc__)
@click.argument("forms", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def main(forms: tuple[str, ...], as_json: bool) -> None:
    """See the module."""
    has_torchao = importlib.util.find_spec("torchao") is not None
    chosen = forms or [f for f in FORMS if has_torchao or not f.startswith("torchao")]
    rows = [measure(form) for form in chosen]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        table = Table("form", "weights", "kept", "equal", "fp16, ulp", "stock: trace", "export")
        for row in rows:
            numbers = (row.weights, row.kept, row.equal, f"{row.ulp:g}", row.trace, row.export)
            table.add_row(row.form, *map(str, numbers))
        Console(width=100).print(table)
        if not has_torchao:
            print("torchao is not installed; its forms are left out")
    sys.exit(not all(row.is_right for row in rows))


if __name__ == "__main__":
    main()
