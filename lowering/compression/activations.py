"""``w8a8``: weights and activations of eight bits, calibrated by the interpreter on any OS.

coremltools calibrates with Core ML's own predict, which needs a Mac, and of several samples keeps
the ranges of the last one alone (*seen* in 9.0: each sample's range is stored before it is compared
with what is stored). The interpreter gives it the ranges of all samples instead; which operators
become integer ones, and the scales, are coremltools'.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import coremltools as ct
import numpy as np
import torch

from frontend.errors import InputError, about
from lowering.compression.compressing import check_compressible, compress
from lowering.compression.operations import opset_version
from lowering.compression.result import Compression
from lowering.compression.rungs import W8A8, Rung, rung_of
from lowering.errors import RungTargetError
from lowering.package.folder import SUFFIX, stored_bytes
from lowering.package.open import read_specification
from lowering.package.saving import package_path, save
from lowering.reference import load
from lowering.reference.inputs import given_inputs
from lowering.reference.program import Op
from lowering.support.quiet import quiet_coremltools

# The version of the operators that quantize while a program runs: Core ML 7, iOS 17.
_IOS17_OPSET = 7

# Of each value by name, as coremltools' passes read it: "rmin" and "rmax".
Ranges = dict[str, dict[str, float]]


def compress_activations(
    package: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    inputs: Sequence[Mapping[str, object]] = (),
    seed: int = 0,
) -> Compression:
    """Write a package whose products take integers of eight bits.

    Args:
        package: path of a ``.mlpackage`` of one function for iOS 17 or later.
        out: where the package goes; beside the original by default, as ``NAME-w8a8.mlpackage``.
        inputs: calls by name that the ranges are taken from; random numbers where there are none,
            which are right for no model.
        seed: of these.

    Raises:
        InputError: the package has several functions, is for an earlier version, or none of its
            activations can be integers. Else as for ``compress``.
    """
    source = Path(package).expanduser()
    target = package_path(out or source.with_name(f"{source.stem}-{W8A8}{SUFFIX}"))
    specification, _ = read_specification(source)
    with about(str(source)):
        check_compressible(specification, rung_of("int8"), str(source))
        functions = specification.mlProgram.functions
        if len(functions) > 1:
            raise InputError(
                "activations are calibrated for packages of one function",
                found=", ".join(sorted(functions)),
                hint="calibrate each model before they are merged, or take int8",
            )
        for name, function in functions.items():
            if opset_version(function.opset) < _IOS17_OPSET:
                raise RungTargetError(
                    "the rung w8a8 needs a package for iOS 17",
                    expected="a function of CoreML7 or later",
                    found=f"function {name!r} of {function.opset}",
                    hint="convert with --deployment-target iOS17, or take int8",
                )
    calls = list(inputs) or [given_inputs(load(source).inputs, (), seed)]
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".ane-passes-") as scratch:
        quantized = _quantized(source, value_ranges(source, calls), Path(scratch))
        found = compress(quantized, Rung(W8A8, "linear", 8), target)
    warning = () if inputs else ("the ranges of its activations are those of random inputs",)
    return Compression(
        target, W8A8, stored_bytes(source), found.bytes_after, found.weights, warning
    )


def value_ranges(package: Path, calls: Sequence[Mapping[str, object]]) -> Ranges:
    """The smallest and largest number of every input and value over all ``calls``."""
    model = load(package)
    found: Ranges = {}

    def note(name: str, value: object) -> None:
        if isinstance(value, torch.Tensor) and value.numel():
            low, high = float(value.min()), float(value.max())
            known = found.setdefault(name, {"rmin": low, "rmax": high})
            known |= {"rmin": min(low, known["rmin"]), "rmax": max(high, known["rmax"])}

    def observe(op: Op, results: tuple[object, ...], computed: tuple[object, ...]) -> None:
        for output, result in zip(op.outputs, results, strict=True):
            note(output.name, result)

    for call in calls:
        for name, value in call.items():
            if isinstance(value, np.ndarray | torch.Tensor):
                note(name, torch.as_tensor(np.asarray(value)))
        model.run(call, model.make_state(), observe)
    return found


def _quantized(source: Path, ranges: Ranges, scratch: Path) -> Path:
    """The package with quantize and dequantize around what takes integers."""
    from coremltools.optimize import coreml as cto
    from coremltools.optimize.coreml import _post_training_quantization as theirs
    from coremltools.optimize.coreml.experimental import _post_training_quantization as calibration
    from coremltools.optimize.coreml.experimental._model_debugger import ModelDebugger

    def lent(model: ct.models.MLModel, *_: object) -> Ranges:
        debugger = ModelDebugger(model)
        calibration._adjust_concat_surrounding_activation_stats(
            debugger._get_concat_op_info(), ranges
        )
        return ranges

    # coremltools 9.0 would also take sums of whole numbers, such as indices, and fail (*seen*).
    whole = [op.name for op in load(source).ops if not _is_float(op)]
    config = cto.OptimizationConfig(
        global_config=cto.OpLinearQuantizerConfig(mode="linear_symmetric"),
        op_name_configs=dict.fromkeys(whole),
    )
    model = ct.models.MLModel(str(source), skip_model_load=True)
    with quiet_coremltools(), mock.patch.object(theirs, "_get_activation_calibration_stats", lent):
        made = cto.linear_quantize_activations(model, config, [])
    # coremltools' conversions of a program leave the metadata of its package out.
    made._spec.description.metadata.CopyFrom(model.get_spec().description.metadata)
    package = save(made, scratch / f"{W8A8}{SUFFIX}")
    specification, _ = read_specification(package)
    (function,) = specification.mlProgram.functions.values()
    operations = function.block_specializations[function.opset].operations
    if not any(op.type == "quantize" for op in operations):
        raise InputError(
            "no activation of the package can be an integer",
            expected="a convolution or product whose weight is a constant",
            found=str(source),
            hint="take int8, which compresses weights alone",
        )
    return package


def _is_float(op: Op) -> bool:
    return all(output.dtype is not None and output.dtype.is_float for output in op.outputs)
