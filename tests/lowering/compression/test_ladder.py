"""Ladders: what each rung costs, which one a budget chooses, and what is refused."""

import json

import coremltools as ct
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from frontend.errors import InputError
from lowering import compress, convert, ladder, load, save, verify
from lowering.cli import main
from lowering.compression.budget import Budget, budget_of
from lowering.compression.ladder import AS_IT_WAS
from lowering.compression.ladder_result import Ladder, Level, frontier
from lowering.errors import SaveError
from lowering.verification import Original

MODEL = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.Flatten(), nn.Linear(1024, 20)
    )
    return model.eval(), (torch.randn(1, 3, 8, 8),)
"""


def make() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    scope: dict = {}
    exec(MODEL, scope)
    return scope["make"]()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    model, args = make()
    folder = tmp_path_factory.mktemp("ladder")
    packages = {
        name: save(convert(model, args, minimum_deployment_target=target), folder / name)
        for name, target in (("new", ct.target.iOS18), ("old", ct.target.iOS17))
    }
    (folder / "net.py").write_text(MODEL)
    original = Original.of(model, args, pipeline=())
    return original, packages


@pytest.fixture(scope="module")
def found(made):
    original, packages = made
    return ladder(packages["new"], original, rungs=("int8", "pal6", "pal4", "pal2"))


def test_each_rung_has_its_figures(made, found, tmp_path):
    original, packages = made
    assert [level.name for level in found.levels] == [AS_IT_WAS, "int8", "pal6", "pal4", "pal2"]
    sizes = [level.bytes for level in found.levels]
    errors = [level.error for level in found.levels]
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    small = compress(packages["new"], "pal4", tmp_path / "pal4.mlpackage")
    assert found.levels[3].bytes == small.bytes_after
    assert found.levels[3].error == pytest.approx(
        verify(small, original).compression.lost[0].total, rel=1e-3
    )
    assert all(level.predicted.dispatch_ms > 0 for level in found.levels)
    assert found.levels[0].metric > found.levels[3].metric > found.levels[4].metric > 0.5
    assert json.dumps(found.to_json())


def test_figures_are_of_all_samples_and_by_an_own_metric(made):
    original, packages = made
    args = original.leaves
    samples = [(args[0] * scale,) for scale in (2, -1)]

    def nearness(ours, theirs):
        ((ours,), (theirs,)) = ours.values(), theirs.values()
        return 1 - float((ours - theirs).abs().max() / theirs.abs().max())

    def one(args, samples):
        found = ladder(
            packages["new"], original.called(args), samples=samples, rungs=["pal2"], metric=nearness
        )
        assert found.metric == "nearness"
        return found.levels[1]

    alone = [one(call, ()) for call in (args, *samples)]
    together = one(args, samples)
    assert together.metric == pytest.approx(sum(level.metric for level in alone) / 3)
    assert together.error == pytest.approx((sum(one.error**2 for one in alone) / 3) ** 0.5)


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        ("60%", "int8"),
        ("35%", "pal4"),
        ("26%", "pal2"),
        ("error=0.2", "pal4"),
        ("error=0.02", "int8"),
    ],
)
def test_a_budget_chooses_and_its_package_is_written(made, tmp_path, budget, chosen):
    original, packages = made
    if budget.endswith("%"):
        whole = sum(f.stat().st_size for f in packages["new"].rglob("*") if f.is_file())
        budget = round(whole * float(budget[:-1]) / 100)
    found = ladder(
        packages["new"],
        original,
        rungs=("int8", "pal4", "pal2"),
        budget=budget,
        out=tmp_path / "small",
    )
    assert found.chosen == chosen
    again = compress(packages["new"], chosen, tmp_path / "again.mlpackage")
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    written = tmp_path / "small.mlpackage"
    assert found.written == str(written)
    assert (written / weights).read_bytes() == (again.package / weights).read_bytes()
    assert load(written).is_compressed


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (1000, ["0.001 MB", "smallest", "by pal2", "MB"]),
        ("0.002 kB", ["at most", "by pal2"]),
        ("error=1e-9", ["error 1e-09", "smallest", AS_IT_WAS]),
        ("metric=1.5", ["at least", "largest"]),
        ("12 apples", ["no budget", "12MB"]),
        ("error=0", ["no budget"]),
        (-3, ["no budget"]),
    ],
)
def test_an_impossible_budget_says_what_can_be_reached(made, tmp_path, budget, words):
    original, packages = made
    with pytest.raises(InputError) as caught:
        ladder(packages["new"], original, rungs=("pal2",), budget=budget, out=tmp_path / "small")
    for word in words:
        assert word in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_rungs_that_a_version_lacks_are_said_to_be(made):
    original, packages = made
    found = ladder(packages["old"], original, rungs=("pal4-grouped", "int8"))
    assert "iOS 18" in found.levels[1].refused
    assert found.levels[2].bytes
    assert found.knee in ("", "int8")


def test_other_bad_input_is_one_error_and_nothing_is_written(made, tmp_path):
    original, packages = made
    with pytest.raises(InputError, match="no rung 'pal5'"):
        ladder(packages["new"], original, rungs=("int8", "pal5"))
    with pytest.raises(InputError, match="which rung is to be written"):
        ladder(packages["new"], original, rungs=("int8",), out=tmp_path / "small")
    (tmp_path / "small.mlpackage").mkdir()
    with pytest.raises(SaveError, match="not a package"):
        ladder(packages["new"], original, rungs=("int8",), budget="1MB", out=tmp_path / "small")
    assert [file.name for file in tmp_path.iterdir()] == ["small.mlpackage"]


def levels(*figures):
    return tuple(Level(str(place), size, error) for place, (size, error) in enumerate(figures))


@pytest.mark.parametrize(
    ("figures", "knee"),
    [
        ([(100, 0.001), (50, 0.004), (25, 0.06), (12, 0.5)], "2"),
        ([(100, 0.001), (50, 0.3), (25, 0.4), (12, 0.5)], ""),
        ([(100, 0.001), (50, 0.004), (60, 0.2), (48, 0.5)], "1"),
        ([(100, 0.001), (50, 0.004)], ""),
        ([(100, 0.001), (50, 0.004), (50, 0.004), (40, float("inf"))], ""),
    ],
)
def test_the_knee(figures, knee):
    assert Ladder("net", "M4", "", levels(*figures)).knee == knee


def test_the_frontier_has_what_nothing_betters():
    front = frontier(levels((100, 0.1), (90, 0.05), (50, 0.2), (60, 0.3), (40, 0.4)))
    assert [level.name for level in front] == ["1", "2", "4"]


@pytest.mark.parametrize(
    ("text", "measure", "limit"),
    [
        ("12MB", "bytes", 12e6),
        ("1.5 GiB", "bytes", 1.5 * 2**30),
        ("4096", "bytes", 4096),
        ("error=0.05", "error", 0.05),
        ("metric = 0.99", "metric", 0.99),
    ],
)
def test_budgets_in_words(text, measure, limit):
    assert budget_of(text) == Budget(measure, limit)


def run(*arguments):
    return CliRunner().invoke(main, ["compress", *map(str, arguments)])


def test_the_command_line(made, tmp_path):
    _, packages = made
    source, model = packages["new"], f"{packages['new'].parent / 'net.py'}:make"
    done = run(source, "--rung", "pal6", "-o", tmp_path / "small.mlpackage")
    assert done.exit_code == 0, done.output
    assert "times smaller" in done.output
    done = run(source, "--rung", "int8", "-o", tmp_path / "int8.mlpackage", "--json")
    assert json.loads(done.stdout)["rung"] == "int8"
    common = (source, model, "--ladder", "--rungs", "int8,pal4")
    done = run(*common)
    assert done.exit_code == 0, done.output
    assert "predicted, for M4" in done.output
    done = run(*common, "--budget", "error=0.2", "-o", tmp_path / "best.mlpackage", "--json")
    assert json.loads(done.stdout)["chosen"] == "pal4"
    assert load(tmp_path / "best.mlpackage").is_compressed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rung", "pal5"), "no rung 'pal5'"),
        ((), "--rung NAME, or --ladder"),
        (("--ladder", "--rung", "int8"), "--rung NAME, or --ladder"),
        (("--ladder",), "needs the MODEL"),
        (("--rung", "int8", "--budget", "1MB"), "a budget is of the rung mixed"),
    ],
)
def test_wrong_calls_end_with_2(made, arguments, words):
    _, packages = made
    before = sorted(packages["new"].parent.iterdir())
    done = run(packages["new"], *arguments)
    assert done.exit_code == 2
    assert words in done.output
    assert sorted(packages["new"].parent.iterdir()) == before
