"""Core ML's own plan: the exporter on stand-ins of coremltools' objects, import, comparison."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from coremltools.models.compute_plan import (
    MLComputePlanCost,
    MLComputePlanDeviceUsage,
    MLModelStructure,
    MLModelStructureProgram,
    MLModelStructureProgramBlock,
    MLModelStructureProgramFunction,
    MLModelStructureProgramNamedValueType,
    MLModelStructureProgramOperation,
)

from benchmarks.planner_accuracy import encoder_program
from lowering.planner import export_compute_plan
from lowering.planner.placement import plan
from lowering.planner.planned import ComputePlanError, compare, read_compute_plan


# coremltools' device classes need the Mac library; the exporter goes by their names.
class MLNeuralEngineComputeDevice: ...


class MLCPUComputeDevice: ...


class MLGPUComputeDevice: ...


ANE, CPU, GPU = MLNeuralEngineComputeDevice(), MLCPUComputeDevice(), MLGPUComputeDevice()
SYSTEM = {"os": "macOS 26.1", "machine": "arm64", "coremltools": "9.0"}


def _operation(name, operator, blocks=()):
    output = MLModelStructureProgramNamedValueType(name, None)
    return MLModelStructureProgramOperation({}, operator, [output], list(blocks), None)


def _stand_in(operations, usage):
    """An MLComputePlan over real structure objects."""
    block = MLModelStructureProgramBlock([], operations, [])
    function = MLModelStructureProgramFunction([], block)
    structure = MLModelStructure(None, MLModelStructureProgram({"main": function}), None)
    return SimpleNamespace(
        model_structure=structure,
        get_compute_device_usage_for_mlprogram_operation=lambda op: usage.get(op.outputs[0].name),
        get_estimated_cost_for_mlprogram_operation=lambda op: MLComputePlanCost(0.5),
    )


@pytest.fixture(scope="module")
def predicted():
    return plan(encoder_program(1))


@pytest.fixture
def exported(predicted, tmp_path):
    """A plan that agrees but for the softmax, which it puts on the CPU, and two names."""
    operations, usage = [_operation("const_0", "const")], {}
    for op in predicted.ops[:-1]:
        operations.append(_operation(op.outputs[0], f"ios17.{op.op_type}"))
        device = CPU if op.device == "cpu" or op.op_type == "softmax" else ANE
        usage[op.outputs[0]] = MLComputePlanDeviceUsage(device, [CPU, GPU, device])
    operations.append(_operation("inserted", "ios17.cast"))
    described = export_compute_plan.describe_plan(
        _stand_in(operations, usage), "CPU_AND_NE", SYSTEM
    )
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(described))
    return path


def test_exporter_writes_what_the_importer_reads(exported, predicted):
    system, ops = read_compute_plan(exported)
    assert system == SYSTEM
    assert len(ops) == len(predicted.ops)
    assert ops[0].op_type == "gather"
    assert ops[0].device == "cpu"
    assert ops[0].supported == {"cpu", "gpu"}
    assert ops[0].cost == 0.5
    assert ops[-1].device is None


def test_confusion_matrix(exported, predicted):
    comparison = compare(predicted, *read_compute_plan(exported))
    assert comparison.placement["cpu", "cpu"] == 1
    assert comparison.placement["cpu", "ane"] == 1
    assert comparison.placement["ane", "ane"] == len(predicted.ops) - 3
    assert sum(comparison.placement.values()) == len(predicted.ops) - 1
    assert comparison.agreement == pytest.approx(1 - 1 / (len(predicted.ops) - 1))
    assert [entry.op_type for entry in comparison.differences] == ["softmax"]
    assert comparison.capability[False, True] == 1
    assert comparison.unmatched == ((predicted.ops[-1].name,), ("inserted",))
    assert json.loads(json.dumps(comparison.to_json()))["agreement"] == comparison.agreement


def test_operators_of_nested_blocks_are_exported():
    inner = MLModelStructureProgramBlock([], [_operation("inner", "ios17.relu")], [])
    outer = _operation("outer", "ios17.cond", [inner])
    described = export_compute_plan.describe_plan(_stand_in([outer], {}), "ALL", SYSTEM)
    assert [op["name"] for op in described["operations"]] == ["outer", "inner"]


def test_neural_networks_have_no_operations():
    stand_in = SimpleNamespace(model_structure=MLModelStructure(object(), None, None))
    with pytest.raises(ValueError, match="not an ML Program"):
        export_compute_plan.describe_plan(stand_in, "ALL", SYSTEM)


@pytest.mark.skipif(sys.platform == "darwin", reason="the script works there")
def test_script_says_that_it_needs_a_mac(tmp_path):
    command = [sys.executable, "-m", "lowering.planner.export_compute_plan", "x.mlpackage"]
    output = tmp_path / "plan.json"
    done = subprocess.run([*command, "-o", str(output)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "on a Mac" in done.stderr
    assert not output.exists()


def test_script_needs_nothing_of_ours(tmp_path):
    """Copied to a Mac without this package, it still runs."""
    copy = tmp_path / "export_compute_plan.py"
    copy.write_bytes(Path(export_compute_plan.__file__).read_bytes())
    command = [sys.executable, "-I", str(copy), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert "compute plan" in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "is not a compute plan"),
        ("[]", "is not a compute plan"),
        ('{"format": 1}', "is not a compute plan"),
        ('{"format": 99}', "another version"),
    ],
)
def test_files_that_are_no_plan(text, message, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ComputePlanError, match=message):
        read_compute_plan(path)


def test_missing_file(tmp_path):
    with pytest.raises(ComputePlanError, match="there is no compute plan"):
        read_compute_plan(tmp_path / "plan.json")
