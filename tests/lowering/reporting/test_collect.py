"""What a report knows, with and without the original."""

from __future__ import annotations

import coremltools as ct
import pytest
import torch

from frontend.errors import AnePassesError
from frontend.model_call import ModelCall
from lowering import convert, load, save
from lowering.planner.mil import read_program
from lowering.planner.placement import plan
from lowering.reporting import collect
from lowering.reporting.accuracy import error_growth
from lowering.reporting.summary import facts, sentences
from lowering.verification import Original
from tests.lowering.reporting.report_models import Encoder, encoder


def test_the_plan_is_the_planners(report, package):
    assert report.plan.to_json() == plan(package).to_json()
    assert {op.device for op in report.plan.ops} == {"ane", "cpu"}


def test_a_program_that_was_read_is_not_read_again(package):
    program = read_program(package)
    assert read_program(program) is program
    assert plan(program).to_json() == plan(package).to_json()


def test_edges_are_the_data_flow(report, package):
    ops = load(package).ops
    made_by = {output.name: op.name for op in ops for output in op.outputs}
    names = [op.name for op in report.plan.ops]
    expected = {
        (made_by[value], op.name)
        for op in ops
        for values in op.inputs.values()
        for value in values
        if value in made_by
    }
    assert {(names[a], names[b]) for a, b in report.edges} == expected


def test_shapes_of_what_is_read(report):
    shapes = dict(zip([op.op_type for op in report.plan.ops], report.input_shapes, strict=True))
    assert shapes["softmax"] == ((1, 128, 1, 128),)
    assert shapes["add"] == ((1, 256, 1, 128),) * 2
    assert shapes["conv"] == ((1, 1024, 1, 128),)  # weights are no inputs


def test_the_block_before_and_after(report, alone):
    block = report.block
    assert block.module.startswith("layers.") and block.family == 3 and block.count in (2, 3)
    before = [vertex.label for vertex in block.before.vertices]
    after = [vertex.label for vertex in block.after.vertices]
    assert before.count("linear") >= 4 and "scaled_dot_product_attention" in before
    assert "linear" not in after and "conv" in after
    (softmax,) = [vertex for vertex in block.after.vertices if vertex.label == "softmax"]
    assert softmax.count == 4 and softmax.passes == ("split_attention",)
    assert alone.block.before is None and alone.block.after == block.after


def test_passes_with_their_reasons(report, alone):
    names = [entry.name for entry in report.package.passes]
    assert names == [entry.name for entry in alone.package.passes]
    for entry, counted in zip(report.package.passes, alone.package.passes, strict=True):
        assert (entry.rewrites, entry.declined) == (counted.rewrites, counted.declined)
        assert sum(places for _, places in entry.reasons) == entry.declined
        assert counted.reasons == ()
    assert any(entry.rewrites for entry in report.package.passes)


def test_nothing_is_run_without_the_original(alone):
    assert alone.accuracy is None
    assert not any(fact.kind == "measured" for fact in facts(alone))


def test_errors_grow_along_the_program(report):
    accuracy = report.accuracy
    assert accuracy.outputs.passed
    assert len(accuracy.growth) > len(report.plan.ops) / 2
    places = [point.op for point in accuracy.growth]
    assert places == sorted(set(places))
    assert accuracy.growth[-1].rel_l2 == pytest.approx(accuracy.worst, rel=0.1)
    assert 0 < accuracy.worst < 0.01


def positions(path):
    return {n: i for i, op in enumerate(read_program(path).ops) for n in op.writes}


def test_a_wrong_weight_shows_where_it_is(package):
    model, args = encoder()
    with torch.no_grad():
        model.layers[1].up.weight.mul_(1.5)
    loaded = load(package)
    original = Original.of(model, args, metadata=loaded.metadata)
    points, _ = error_growth(loaded, original, positions(package))
    ops = read_program(package).ops
    bad = next(point for point in points if point.rel_l2 > 0.05)
    assert ops[bad.op].facts.op_type == "conv"
    assert "layers.1.up" in str(read_program(package).sources.lookup(bad.value))
    found = collect(package, ModelCall("net", model, args))
    assert any("first operator to go wrong is conv" in line for line in sentences(found))


def test_values_of_another_meaning_are_left_out(package, monkeypatch):
    model, args = encoder()
    loaded = load(package)
    original = Original.of(model, args, metadata=loaded.metadata)
    clean, none = error_growth(loaded, original, positions(package))
    victim = clean[len(clean) // 2]
    from lowering.verification import package_values

    run = package_values.run

    def swapped(*arguments):
        done = run(*arguments)
        done.values[victim.value] = -done.values[victim.value]
        return done

    monkeypatch.setattr(package_values, "run", swapped)
    found, left_out = error_growth(loaded, original, positions(package))
    assert left_out == none + 1
    assert victim.value not in [point.value for point in found]


def test_another_model_is_refused(package):
    with pytest.raises(AnePassesError):
        collect(package, ModelCall("net", torch.nn.Linear(4, 4), (torch.randn(1, 4),)))


def test_a_wrong_model_is_said_to_differ(package):
    torch.manual_seed(1)
    other, args = Encoder().eval(), encoder()[1]
    found = collect(package, ModelCall("net", other, args))
    assert not found.accuracy.outputs.passed
    (fact,) = [fact for fact in facts(found) if fact.kind == "measured"]
    assert fact.tone == "bad" and "beyond" in fact.note


def test_a_package_of_stock_coremltools(tmp_path):
    x = torch.randn(1, 8)
    program = torch.export.export(torch.nn.Linear(8, 4), (x,)).run_decompositions({})
    model = ct.convert(program, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)
    path = save(model, tmp_path / "stock.mlpackage")
    found = collect(path)
    assert found.block is None
    assert found.package.passes == () and found.package.versions == {}
    assert len(found.plan.ops) >= 1


def test_every_figure_of_the_summary_says_what_it_is(report):
    kinds = {fact.label: fact.kind for fact in facts(report)}
    assert kinds["on the Neural Engine"] == kinds["dispatcher's price"] == "predicted"
    assert kinds["time on M4"] == kinds["switches"] == "predicted"
    assert kinds["error of the worst output"] == "measured"
    assert kinds["operators"] == kinds["package"] == "counted"


def test_sentences_say_where_and_why(report):
    text = " ".join(sentences(report))
    on_ane = sum(op.device == "ane" for op in report.plan.ops)
    assert f"{on_ane} of {len(report.plan.ops)} operators are predicted" in text
    assert report.plan.advice[0].sentence in text


def test_a_program_without_layers_has_no_block(tmp_path):
    path = save(convert(torch.nn.Linear(8, 4), (torch.randn(1, 8),)), tmp_path / "one.mlpackage")
    call = ModelCall("net", torch.nn.Linear(8, 4), (torch.randn(1, 8),))
    assert collect(path, call).block is None
