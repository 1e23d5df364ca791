"""Writes Core ML's own compute plan of a model as JSON. Runs on a Mac; needs coremltools only.

    python -m lowering.planner.export_compute_plan MODEL.mlpackage -o plan.json

The file can also be copied and run by itself. ``ane-passes plan MODEL.mlpackage --planned
plan.json``, on any machine, then shows what was *planned* beside what was *predicted*.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMAT = 1
# coremltools' class of a compute device to the planner's name of it.
DEVICES = {
    "MLNeuralEngineComputeDevice": "ane",
    "MLGPUComputeDevice": "gpu",
    "MLCPUComputeDevice": "cpu",
}
UNITS = ("CPU_AND_NE", "ALL", "CPU_ONLY", "CPU_AND_GPU")


def describe_plan(plan: Any, compute_units: str, system: dict[str, str]) -> dict[str, Any]:
    """A compute plan as plain values.

    Args:
        plan: coremltools' ``MLComputePlan`` of an ML Program.
        compute_units: the units it was made for.
        system: what it was made on.

    Returns:
        ``{"format", "system", "compute_units", "function", "operations"}``; an operation has
        ``name`` (its first output), ``operator``, ``outputs``, ``preferred`` device, ``supported``
        devices and ``cost`` (0 to 1, the share of the whole), ``None`` where Core ML gives none.

    Raises:
        ValueError: the model is not an ML Program.
    """
    program = plan.model_structure.program
    if program is None:
        raise ValueError("the model is not an ML Program")
    functions = program.functions
    name = "main" if "main" in functions else next(iter(functions))
    operations = [_operation(plan, op) for op in _walk(functions[name].block)]
    return {
        "format": FORMAT,
        "system": system,
        "compute_units": compute_units,
        "function": name,
        "operations": operations,
    }


def _walk(block: Any) -> Iterator[Any]:
    for op in block.operations:
        if op.operator_name != "const":
            yield op
        for inner in op.blocks:
            yield from _walk(inner)


def _operation(plan: Any, op: Any) -> dict[str, Any]:
    usage = plan.get_compute_device_usage_for_mlprogram_operation(op)
    cost = plan.get_estimated_cost_for_mlprogram_operation(op)
    outputs = [output.name for output in op.outputs]
    return {
        "name": outputs[0] if outputs else "",
        "operator": op.operator_name,
        "outputs": outputs,
        "preferred": None if usage is None else _device(usage.preferred_compute_device),
        "supported": []
        if usage is None
        else sorted(_device(device) for device in usage.supported_compute_devices),
        "cost": None if cost is None else cost.weight,
    }


def _device(device: object) -> str:
    return DEVICES.get(type(device).__name__, type(device).__name__)


def export(model: Path, compute_units: str) -> dict[str, Any]:
    """The compute plan of the package at ``model``, compiled for this Mac."""
    import coremltools as ct
    from coremltools.models.compute_plan import MLComputePlan

    system = {
        "os": f"macOS {platform.mac_ver()[0]}",
        "machine": platform.machine(),
        "coremltools": ct.__version__,
    }
    with tempfile.TemporaryDirectory() as directory:
        compiled = ct.models.utils.compile_model(str(model), f"{directory}/model.mlmodelc")
        plan = MLComputePlan.load_from_path(compiled, getattr(ct.ComputeUnit, compute_units))
        return describe_plan(plan, compute_units, system)


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lowering.planner.export_compute_plan",
        description="Write Core ML's compute plan of a model as JSON (macOS 14.4 or later).",
    )
    parser.add_argument("model", type=Path, help="a .mlpackage with an ML Program")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--compute-units", choices=UNITS, default=UNITS[0])
    options = parser.parse_args(arguments)
    if sys.platform != "darwin":
        print(
            f"A compute plan is made by Core ML itself, which is on macOS only; this is "
            f"{platform.system()}.\nRun this script on a Mac and bring the JSON file back.",
            file=sys.stderr,
        )
        return 2
    if not options.model.exists():
        print(f"There is no model at {options.model}", file=sys.stderr)
        return 2
    described = export(options.model, options.compute_units)
    partial = options.output.with_name(options.output.name + ".partial")
    partial.write_text(json.dumps(described, indent=1) + "\n", "utf-8")
    partial.replace(options.output)
    print(f"{len(described['operations'])} operations written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
