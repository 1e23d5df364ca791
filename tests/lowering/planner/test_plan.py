"""``plan`` over programs and packages, and what it says about them."""

from __future__ import annotations

import json
import time

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

from benchmarks.planner_accuracy import encoder_program
from frontend.source import Source
from lowering.errors import PackageError
from lowering.package.source_table import SOURCES_KEY, SourceTable
from lowering.planner import UnknownChipError
from lowering.planner.mil import read_program
from lowering.planner.placement import ComputeUnitsError, plan


@pytest.fixture(scope="module")
def encoder():
    return encoder_program(2)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "encoder.mlpackage"
    # Conversion rewrites the program it is given, so this one is not shared.
    model = ct.convert(
        encoder_program(2),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    sources = SourceTable({"gelu_0": Source("encoder.0.act", "model.py:7 gelu(x)", ("gelu",))})
    model.user_defined_metadata[SOURCES_KEY] = sources.to_metadata()
    model.save(str(path))
    return path


def test_program_package_and_model_give_the_same_plan(package):
    from_path = plan(package)
    model = ct.models.MLModel(str(package), skip_model_load=True)
    from_model = plan(model)
    from_program = plan(read_back(package))
    assert [op.device for op in from_path.ops] == [op.device for op in from_model.ops]
    assert [op.op_type for op in from_path.ops] == [op.op_type for op in from_program.ops]
    assert from_path.dispatch_ms == pytest.approx(from_program.dispatch_ms)


def read_back(package):
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models.utils import load_spec

    spec = load_spec(str(package))
    weights = package / "Data/com.apple.CoreML/weights"
    return load(spec, spec.specificationVersion, str(weights))


def test_encoder_runs_on_the_ane_but_for_its_embedding(encoder):
    made = plan(encoder)
    on_cpu = [op for op in made.ops if op.device == "cpu"]
    assert [op.op_type for op in on_cpu] == ["gather"]
    assert on_cpu[0].reason.rule == "gather.index_dtype"
    assert "ane" not in on_cpu[0].supported
    assert made.switches == 2
    assert [segment.device for segment in made.segments] == ["cpu", "ane"]
    assert made.ane_share.ops == pytest.approx(1 - 1 / len(made.ops))
    assert 0.9 < made.ane_share.cost < 1


def test_costs_and_segments_add_up(encoder):
    made = plan(encoder)
    chosen = sum(op.chosen_ms for op in made.ops)
    assert sum(segment.cost_ms for segment in made.segments) == pytest.approx(chosen)
    assert made.dispatch_ms == pytest.approx(chosen + 0.125 * made.switches)
    assert made.segments[-1].stop == len(made.ops)


def test_sources_lead_to_the_user_s_line(package):
    gelu = next(op for op in plan(package).ops if op.op_type == "gelu")
    assert gelu.source == Source("encoder.0.act", "model.py:7 gelu(x)", ("gelu",))


def test_a_small_program_stays_on_the_cpu_for_its_price():
    @mb.program(input_specs=[mb.TensorSpec((1, 8, 16, 16), types.fp16)])
    def small(x):
        return mb.relu(x=mb.exp(x=x))

    made = plan(small)
    assert {op.device for op in made.ops} == {"cpu"}
    assert {op.reason.rule for op in made.ops} == {"segment.price"}
    assert "0.250 ms of switches" in made.ops[0].reason.sentence
    assert all("ane" in op.supported for op in made.ops)
    assert made.latency_ms is None
    assert made.latency_note.startswith("unknown")


def _islands():
    weight = np.ones((64, 64, 3, 3), np.float16)

    @mb.program(input_specs=[mb.TensorSpec((1, 64, 64, 64), types.fp16)])
    def islands(x):
        for _ in range(3):
            x = mb.conv(x=x, weight=weight, pad_type="same")
        x = mb.cumsum(x=x, axis=1)
        for _ in range(3):
            x = mb.conv(x=x, weight=weight, pad_type="same")
        return x

    return islands


def test_advice_says_what_an_island_costs():
    made = plan(_islands())
    assert made.switches == 4
    advice = made.advice[0]
    assert advice.change == "supported"
    assert advice.switches == -2
    assert advice.cost_ms < -0.25
    assert "removes 2 switches" in advice.sentence
    assert "predicted" in advice.sentence
    assert all(entry.change != "host" for entry in made.advice)


def test_advice_is_what_planning_again_finds():
    """The advised saving equals the price of the same program without the operator."""
    made = plan(_islands())
    without = plan(_without_island())
    island = next(op for op in made.ops if op.op_type == "cumsum")
    ane_price = made.advice[0].cost_ms + made.dispatch_ms - without.dispatch_ms
    assert 0 < ane_price < island.cost_ms["cpu"]


def _without_island():
    weight = np.ones((64, 64, 3, 3), np.float16)

    @mb.program(input_specs=[mb.TensorSpec((1, 64, 64, 64), types.fp16)])
    def plain(x):
        for _ in range(6):
            x = mb.conv(x=x, weight=weight, pad_type="same")
        return x

    return plain


def test_moving_the_look_up_to_the_host_saves_its_whole_price(encoder):
    made = plan(encoder)
    host = next(entry for entry in made.advice if entry.change == "host")
    gather = made.ops[0]
    assert host.ops == (gather.name,)
    assert host.cost_ms == pytest.approx(-gather.cost_ms["cpu"])


def test_figures_of_padding_and_working_set():
    @mb.program(input_specs=[mb.TensorSpec((1, 64, 32, 1), types.fp16)])
    def narrow(x):
        return mb.relu(x=x)

    figures = plan(narrow).ops[0].figures
    # One fp16 element in a row of 64 bytes.
    assert figures.padding == pytest.approx(31.0)
    assert figures.rank == 4
    assert figures.working_set_bytes == 2 * 64 * 32 * 2
    assert figures.fits_on_chip


def test_json_is_plain(encoder):
    document = plan(encoder).to_json()
    again = json.loads(json.dumps(document))
    assert again["kind"] == "predicted"
    assert again["latency_ms"]["kind"] == "predicted"
    assert len(again["ops"]) == len(plan(encoder).ops)
    assert again["ops"][0]["reason"]["rule"] == "gather.index_dtype"


def test_latency_lies_in_its_interval_and_is_unknown_without_data(encoder):
    known = plan(encoder, chip="M4").latency_ms
    assert known.low < known.ms < known.high
    assert sum(known.terms.values()) == pytest.approx(known.ms)
    unknown = plan(encoder, chip="M3")
    assert unknown.latency_ms is None
    assert "unknown" in unknown.latency_note
    assert any("assumed" in note for note in unknown.notes)


def test_compute_units(encoder):
    on_cpu = plan(encoder, compute_units=ct.ComputeUnit.CPU_ONLY)
    assert {op.device for op in on_cpu.ops} == {"cpu"}
    everything = plan(encoder, compute_units="ALL")
    assert any("GPU" in note for note in everything.notes)
    with pytest.raises(ComputeUnitsError, match="CPU_AND_GPU cannot be predicted"):
        plan(encoder, compute_units="CPU_AND_GPU")


def test_errors_name_the_next_step(encoder, tmp_path):
    with pytest.raises(UnknownChipError, match="M99"):
        plan(encoder, chip="M99")
    with pytest.raises(PackageError, match="there is no package"):
        plan(tmp_path / "missing.mlpackage")
    broken = tmp_path / "broken.mlpackage"
    broken.mkdir()
    with pytest.raises(PackageError, match="no manifest"):
        plan(broken)
    with pytest.raises(PackageError, match="not a package"):
        plan(42)


def test_a_package_without_its_weights_is_refused(package, tmp_path):
    import shutil

    copy = tmp_path / "copy.mlpackage"
    shutil.copytree(package, copy)
    (copy / "Data/com.apple.CoreML/weights/weight.bin").unlink()
    with pytest.raises(PackageError, match="weights file is missing"):
        plan(copy)


def test_neural_networks_are_refused(tmp_path):
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder

    builder = NeuralNetworkBuilder(
        [("x", datatypes.Array(4))], [("y", datatypes.Array(4))], disable_rank5_shape_mapping=True
    )
    builder.add_activation("relu", "RELU", "x", "y")
    path = tmp_path / "old.mlmodel"
    ct.models.utils.save_spec(builder.spec, str(path))
    with pytest.raises(PackageError, match="not an ML Program but a neural network"):
        plan(path)


def test_six_layers_within_two_seconds_and_linear_in_operators():
    programs = {layers: encoder_program(layers) for layers in (6, 48)}
    seconds = {}
    for layers, program in programs.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            made = plan(program)
            times.append(time.perf_counter() - start)
        seconds[layers] = min(times) / len(made.ops)
    assert seconds[6] * 145 < 2.0
    # Per operator: a quadratic step would make the deep program eight times dearer.
    assert seconds[48] < 3 * seconds[6]


def test_control_flow_and_multiple_outputs_are_read():
    @mb.program(input_specs=[mb.TensorSpec((1,), types.bool), mb.TensorSpec((1, 64), types.fp16)])
    def branches(flag, x):
        best = mb.topk(x=x, k=4, axis=-1)[0]
        return mb.cond(
            pred=mb.squeeze(x=flag),
            _true_fn=lambda: mb.relu(x=best),
            _false_fn=lambda: mb.exp(x=best),
        )

    ops = read_program(branches).ops
    assert [op.facts.op_type for op in ops] == ["topk", "squeeze", "cond", "relu", "exp"]
    assert len(ops[0].writes) == 2
