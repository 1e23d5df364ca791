"""A sweep measures each program once, keeps what it found, and goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import nn

import passes
from frontend.model_call import ModelCall
from lowering.ablation.cache import Cache
from lowering.ablation.dask_cluster import DaskCluster
from lowering.ablation.engines import InProcess
from lowering.ablation.result import Ablation
from lowering.ablation.sweep import Settings, Sweep, ablate_models
from lowering.ablation.tasks import Task
from lowering.ablation.variants import Variant, forms_of, variants_of
from lowering.errors import CompositeError
from lowering.planner.targets import UnknownChipError
from tests.lowering.ablation.ablation_models import attention_layer, mlp

DEFAULT = passes.DEFAULT_PIPELINE


def few(pipeline=DEFAULT) -> list[Variant]:
    """The default, no pass, one left out that matters, one that does not, and a prefix."""
    wanted = ("default", "original", "without linear_to_conv1x1", "without fold_batch_norm")
    every = {variant.name: variant for variant in variants_of(pipeline)}
    first = next(variant for variant in every.values() if variant.kind == "prefix")
    return [*(every[name] for name in wanted), first]


class Counted(InProcess):
    """Keeps the labels of what it ran; stops the world after ``stop`` tasks."""

    def __init__(self, stop: int | None = None) -> None:
        self.labels: list[str] = []
        self.stop = stop

    def run(self, tasks: Sequence[Task]) -> Iterator:
        for task, result in super().run(tasks):
            self.labels.append(task.label)
            yield task, result
            if len(self.labels) == self.stop:
                raise KeyboardInterrupt


def swept(**options) -> Ablation:
    with Sweep([mlp()], Settings(**options)) as sweep:
        (found,) = sweep.run([few()])
    return found


def without_times(ablation: Ablation) -> str:
    """All that must be the same wherever and whenever it is measured."""
    raw = ablation.to_json()
    for variant in raw["variants"]:
        assert not variant["failure"], (variant["name"], variant["failure"])
        del variant["optimize_seconds"], variant["figures"]["observed"]
    return json.dumps(raw)


@pytest.fixture(scope="module")
def once() -> Ablation:
    return swept()


def test_what_is_found(once):
    default, original, kept, idle, prefix = once.variants
    assert original.figures.mil.count("linear") == 2 and original.rewrites == 0
    assert default.figures.mil.count("conv") == 2 and default.rewrites > 0
    assert kept.figures.mil.count("linear") == 2
    assert idle.same_as == "default" and idle.figures == default.figures
    assert prefix.same_as == "original"
    assert once.half_error is not None and 0 < once.half_error < 1e-2
    for variant in once.variants:
        figures = variant.figures
        assert 0 < figures.rel_l2 < 1e-2 and figures.max_abs > 0
        assert figures.weight_bytes > 2 * 8 * 16 * 2
        assert figures.observed.cpu_ms > 0 and figures.observed.convert_seconds > 0
        assert [entry.target for entry in figures.predicted] == ["M4"]
        assert not variant.failure


def test_deterministic(once):
    assert without_times(swept()) == without_times(once)


def test_dask_finds_the_same(once):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with (
        # A process, as on a cluster elsewhere: threads of Dask beside a conversion are no case.
        distributed.LocalCluster(**options) as cluster,
        DaskCluster(1, cluster.scheduler_address) as engine,
    ):
        assert without_times(swept(engine=engine)) == without_times(once)


def test_a_second_run_does_only_what_is_missing(once, tmp_path):
    whole = Counted()
    swept(engine=whole, cache=Cache(tmp_path))
    assert len(whole.labels) == len(set(whole.labels))

    halfway = Counted(stop=4)
    other = tmp_path / "other"
    with pytest.raises(KeyboardInterrupt):
        swept(engine=halfway, cache=Cache(other))
    rest = Counted()
    resumed = swept(engine=rest, cache=Cache(other))
    assert halfway.labels + rest.labels == whole.labels
    assert without_times(resumed) == without_times(once)

    third = Counted()
    swept(engine=third, cache=Cache(other))
    assert third.labels == []
    fresh = Counted()
    swept(engine=fresh, cache=Cache(other, fresh=True))
    assert fresh.labels == whole.labels


def test_what_a_process_died_of_is_tried_again(tmp_path):
    class Dying(InProcess):
        def run(self, tasks):
            for task, result in super().run(tasks):
                yield (
                    task,
                    {"failure": "died", "undone": True} if "original" in task.label else result,
                )

    (default, original, *_) = swept(engine=Dying(), cache=Cache(tmp_path)).variants
    assert default.figures is not None and original.failure == "died"
    engine = Counted()
    assert not swept(engine=engine, cache=Cache(tmp_path)).variant("original").failure
    assert engine.labels == ["mlp: original"]


def test_a_damaged_entry_is_measured_again(tmp_path):
    engine = Counted()
    swept(engine=engine, cache=Cache(tmp_path))
    for damaged, file in enumerate(sorted(tmp_path.glob("*.json"))[:2]):
        file.write_text("" if damaged else '{"result"')
    again = Counted()
    swept(engine=again, cache=Cache(tmp_path))
    assert len(again.labels) == 2


def test_other_weights_are_another_model(tmp_path):
    swept(cache=Cache(tmp_path))
    model = mlp()
    with torch.no_grad():
        model.model.first.bias += 1
    engine = Counted()
    with Sweep([model], Settings(engine=engine, cache=Cache(tmp_path))) as sweep:
        sweep.run([few()])
    assert any("default" in label for label in engine.labels)


def test_other_chips_and_systems_are_measured_for_themselves(tmp_path):
    swept(cache=Cache(tmp_path))
    engine = Counted()
    found = swept(
        engine=engine,
        cache=Cache(tmp_path),
        chips=("m4", "A17 Pro"),
        deployment_target="iOS18",
    )
    assert found.targets == ("M4", "A17 Pro") and found.deployment_target == "iOS18"
    assert len(engine.labels) == 2  # the programs; the passes ran already
    assert found.variants[0].figures.on("A17 Pro").target == "A17 Pro"


def test_a_variant_that_fails_is_a_result():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(1, 4))

        def forward(self, x):
            return self.total.add_(x) * 2

    # States need iOS 18.
    with Sweep([ModelCall("sum", Sum(), (torch.randn(1, 4),))], Settings()) as sweep:
        (found,) = sweep.run([few()[:2]])
    assert all("writes buffer 'total'" in variant.failure for variant in found.variants)
    assert all(variant.figures is None for variant in found.variants)
    assert found.to_json()["variants"][0]["difference"]["M4"]["verdict"] == "unknown"

    newer = Settings(deployment_target="iOS18")
    with Sweep([ModelCall("sum", Sum(), (torch.randn(1, 4),))], newer) as sweep:
        (found,) = sweep.run([few()[:2]])
    assert all(variant.figures.rel_l2 < 1e-2 for variant in found.variants)


def test_progress_and_several_models_with_one_name():
    seen: list[tuple[int, int, str]] = []
    engine = Counted()
    models = [mlp(), mlp()]
    models[1].model.second.bias.data += 1
    settings = Settings(engine=engine, progress=lambda *now: seen.append(now))
    with Sweep(models, settings) as sweep:
        found = sweep.run([few()[:2], few()[:2]])
    assert [now[0] for now in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1] == len(engine.labels)
    one, other = (ablation.variants[0].figures for ablation in found)
    assert one.rel_l2 != other.rel_l2


def test_forms_that_change_nothing_are_not_measured():
    engine = Counted()
    with Sweep([attention_layer()], Settings(engine=engine)) as sweep:
        (found,) = sweep.run([[few()[0], *forms_of(DEFAULT, "iOS17")]])
    assert found.variant("rms_norm=layer_norm").same_as == "default"
    assert found.variant("attention=batched").same_as is None
    measured = [label for label in engine.labels if "passes" not in label]
    different = {variant.name for variant in found.variants if variant.same_as is None}
    assert len(measured) == len(different) + 1  # and the half precision of torch


def test_errors_before_any_work():
    with pytest.raises(UnknownChipError), Sweep([mlp()], Settings(chips=("M0",))):
        pass


def test_custom_operators_need_a_lowering():
    @torch.library.custom_op("ablation_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)

    class Net(nn.Module):
        def forward(self, x):
            return torch.ops.ablation_test.twice(x)

    with pytest.raises(CompositeError, match=r"ablation_test\.twice"):
        ablate_models([ModelCall("net", Net(), (torch.ones(2),))])
