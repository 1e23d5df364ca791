"""Ablates five models pass by pass, and writes tables and a report of each.

Weights are random, in the architecture's real width. Everything that concerns the ANE is predicted.
A second run reads what the first one kept.

Writes to --output: ablation.html with all models, ablation.md, ablation.csv, and for each model
MODEL.json and MODEL.html.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch
from rich.table import Table
from torch import nn

from benchmarks import ports
from lowering.ablation.result import Predicted
from lowering.cli.common import guarded, json_option, print_json, stdout_console, step
from lowering.cli.sweep import sweeping

if TYPE_CHECKING:
    from lowering.ablation.result import Ablation

CHIP = "M4"
# The first system with every form of attention.
DEPLOYMENT_TARGET = "iOS18"
OUT = Path("out/ablation")
Inputs = dict[str, torch.Tensor]


def _port(build: Callable[[], ports.Built]) -> tuple[nn.Module, Inputs]:
    model, inputs = build()
    return model, inputs()


def vit_base() -> tuple[nn.Module, Inputs]:
    """ViT-base with 2 of its 12 layers, 224 × 224 pixels, 197 tokens."""
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig(num_hidden_layers=2), add_pooling_layer=False)
    return model.eval(), {"pixel_values": torch.randn(1, 3, 224, 224)}


def convnext_tiny() -> tuple[nn.Module, Inputs]:
    """ConvNeXt-tiny's four widths with one block each, 224 × 224 pixels."""
    from transformers import ConvNextConfig, ConvNextModel

    model = ConvNextModel(ConvNextConfig(depths=[1, 1, 1, 1]))
    return model.eval(), {"pixel_values": torch.randn(1, 3, 224, 224)}


MODELS: dict[str, Callable[[], tuple[nn.Module, Inputs]]] = {
    "distilbert-6L": lambda: _port(ports.distilbert),
    "vit-base-2L": vit_base,
    "whisper-tiny-encoder": lambda: _port(ports.whisper_tiny_encoder),
    "qwen3-2L": lambda: _port(ports.qwen3),
    "convnext-4L": convnext_tiny,
}


def built(name: str) -> tuple[nn.Module, Inputs]:
    """A model and its inputs, the same in each run."""
    torch.manual_seed(0)
    return MODELS[name]()


def brief(ablations: list[Ablation]) -> Table:
    """One row for each model: what all passes do, and which matter most by themselves."""
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "ops", "price, ms", "latency, ms", "dearest without", "cheapest form"):
        left = heading in ("model", "dearest without", "cheapest form")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for ablation in ablations:
        ends = [ablation.variant(name).figures for name in ("original", ablation.baseline)]
        if ends[0] is None or ends[1] is None:
            table.add_row(ablation.model, "could not be measured")
            continue
        before, after = ends[0], ends[1]
        one, other = before.on(CHIP), after.on(CHIP)
        table.add_row(
            ablation.model,
            f"{before.mil.ops} → {after.mil.ops}",
            f"{one.dispatch_ms:.3g} → {other.dispatch_ms:.3g}",
            f"{_latency(one)} → {_latency(other)}",
            _dearest(ablation),
            _cheapest(ablation),
        )
    return table


def _latency(predicted: Predicted) -> str:
    return "–" if predicted.latency_ms is None else f"{predicted.latency_ms:.2g}"


def _dearest(ablation: Ablation) -> str:
    """The pass whose absence raises the price most, if by 1% at least."""
    ratio, name = max(_ratios(ablation, "without"), default=(0.0, ""))
    return f"{name.removeprefix('without ')} {ratio:.2f}×" if ratio >= 1.01 else ""


def _cheapest(ablation: Ablation) -> str:
    """The form with the lowest price, or the default where that is within 5% of it."""
    ratio, name = min(_ratios(ablation, "form"), default=(1.0, ""))
    return f"{name} {ratio:.2f}×" if ratio <= 0.95 else "the default"


def _ratios(ablation: Ablation, kind: str) -> Iterator[tuple[float, str]]:
    """Price over the default's, and name, of the measured variants of one kind."""
    for variant in ablation.variants:
        ratio = ablation.difference(variant, CHIP).price_ratio
        if variant.kind == kind and ratio is not None:
            yield ratio, variant.name


def write_reports(ablation: Ablation, folder: Path) -> None:
    """The ablation as JSON, and the report of the default package as HTML."""
    import coremltools as ct

    import passes
    from frontend.model_call import ModelCall
    from lowering import convert, save
    from lowering.reporting import collect
    from lowering.reporting.write import written
    from lowering.support.text_file import write_text

    name = ablation.model
    write_text(json.dumps(ablation.to_json(), indent=1), folder / f"{name}.json")
    model, inputs = built(name)
    optimized = passes.optimize_for_ane(model, (), kwargs=inputs)
    system = ct.target[DEPLOYMENT_TARGET]
    mlmodel = convert(optimized, minimum_deployment_target=system, skip_model_load=True)
    package = save(mlmodel, folder / f"{name}.mlpackage")
    call = ModelCall(name, model, (), inputs)
    report = collect(package, call, chip=CHIP, ablation=ablation)
    write_text(written(report, "html"), folder / f"{name}.html")


@click.command(help=__doc__)
@click.option("--only", "names", multiple=True, type=click.Choice(list(MODELS)), help="Repeatable.")
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count(), show_default=True)
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="As for ablate.")
@click.option("--output", type=click.Path(path_type=Path), default=OUT, show_default=True)
@click.option("--brief", "is_brief", is_flag=True, help="Only a short table; writes nothing.")
@json_option
@guarded
def main(
    names: tuple[str, ...],
    jobs: int,
    cache: Path | None,
    output: Path,
    is_brief: bool,
    as_json: bool,
) -> None:
    """See the module."""
    with step("Importing"):
        from frontend.model_call import ModelCall
        from lowering.ablation.sweep import Settings, ablate_models
        from lowering.ablation.tables import ablation_csv, ablation_markdown
        from lowering.reporting.page import ablations_page
        from lowering.support.text_file import write_text
    start = time.perf_counter()
    models = [ModelCall(name, *_arguments(name)) for name in names or MODELS]
    with sweeping(jobs, "local", None, cache, fresh=False) as options:
        found = ablate_models(models, Settings((CHIP,), DEPLOYMENT_TARGET, **options))
    seconds = time.perf_counter() - start
    if not is_brief:
        output.mkdir(parents=True, exist_ok=True)
        write_text("\n\n".join(map(ablation_markdown, found)) + "\n", output / "ablation.md")
        write_text(ablation_csv(found), output / "ablation.csv")
        write_text(ablations_page(found, CHIP), output / "ablation.html")
        for ablation in found:
            with step(f"Reporting {ablation.model}"):
                write_reports(ablation, output)
    if as_json:
        print_json([ablation.to_json() for ablation in found])
        return
    console = stdout_console()
    console.print(brief(found))
    console.print(
        f"\nWithout passes → with all, on {CHIP}, {DEPLOYMENT_TARGET}; the dispatcher's price "
        "and the latency are predicted.\nDearest without: the price without this pass over the "
        "default's. Cheapest form: likewise;\nthe default where it is within 5% of the cheapest."
    )
    if not is_brief:
        console.print(f"wrote {output}; the sweep took {seconds:.0f} s")


def _arguments(name: str) -> tuple[nn.Module, tuple[()], Inputs]:
    model, inputs = built(name)
    return model, (), inputs


if __name__ == "__main__":
    main()
