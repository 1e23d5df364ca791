"""The whole way on a real model: optimise MiniLM, convert it, and compare it with the original.

Prints what each pass did, what the package is made of beside what stock coremltools makes of the
same model, and how similar real sentences are to the original model, to the rewritten one and to
the finished package, which the reference interpreter runs. Works on any OS.

Exit codes: 0 done, 1 a similarity is off by more than the stated bound, 2 something is missing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Literal, get_args

import click
from rich.markup import escape
from rich.table import Table

from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
    step,
)

Attention = Literal["split", "batched", "native"]
OUT = Path("out")
# Bounds on the error of a similarity, a number between -1 and 1.
REWRITTEN_BOUND = 1e-5  # float32, summed in another order
PACKAGE_BOUND = 1e-3  # float16 throughout
COLUMNS = ("stock coremltools", "ane-passes")
_OP_TYPES = ("transpose", "reshape", "linear", "matmul", "conv", "einsum", "softmax", "layer_norm")


@click.command(help=__doc__)
@click.option(
    "--attention",
    type=click.Choice(get_args(Attention)),
    default="split",
    show_default=True,
    help="Form of attention; native needs iOS18.",
)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--brief", is_flag=True, help="Only the operators and the largest differences.")
@json_option
@guarded
def main(attention: Attention, threads: int, brief: bool, as_json: bool) -> None:
    """See the module."""
    result = demonstrate(attention, threads)
    if as_json:
        reports = [report.to_json() for report in result.pop("reports")]
        print_json({**result, "passes": reports})
    elif brief:
        stdout_console().print(_mil_table(result["mil"]))
        stdout_console().print("\n" + _differences(result))
    else:
        _print(result)
    bounds = {"rewritten": REWRITTEN_BOUND, "package": PACKAGE_BOUND}
    if any(result["largest_difference"][name] > bound for name, bound in bounds.items()):
        sys.exit(EXIT_CHECK_FAILED)


def demonstrate(attention: Attention, threads: int) -> dict[str, Any]:
    """Runs everything; the reports of the passes stay objects, the rest are JSON values."""
    with step("Importing"):
        # Late: after `guarded` has silenced what these say about the platform.
        import coremltools as ct
        import torch

        import passes
        from benchmarks import minilm, stock
        from lowering.conversion.converter import convert
        from lowering.package.saving import save
        from lowering.planner.mil_stats import mil_stats
        from lowering.reference import load
    torch.set_num_threads(threads)
    target = ct.target.iOS18 if attention == "native" else ct.target.iOS17
    with step("Loading MiniLM"):
        model = minilm.load()
        batches = [model.inputs(sentence) for sentence in minilm.SENTENCES]
    seconds = {}
    with step("Optimising"):
        start = time.perf_counter()
        optimized = passes.optimize_for_ane(
            model.encoder,
            (),
            kwargs=batches[0],
            pipeline=passes.default_pipeline(attention=attention),
        )
        seconds["optimize"] = time.perf_counter() - start
    with step("Converting"):
        start = time.perf_counter()
        mlmodel = convert(optimized, minimum_deployment_target=target, skip_model_load=True)
        seconds["convert"] = time.perf_counter() - start
        OUT.mkdir(exist_ok=True)
        path = save(mlmodel, OUT / f"minilm-{attention}.mlpackage")
    with step("Converting with stock coremltools"):
        failures = stock.stock_failures(model.encoder, batches[0])
        ready = (batches[0]["input_ids"], stock.additive_mask(batches[0]["attention_mask"]))
        made = {COLUMNS[1]: mlmodel}
        try:
            plain = stock.stock_convert(stock.ReadyMask(model.encoder), ready)
        except stock.FAILURES as error:
            failures["trace with a ready mask"] = stock.said(error)
        else:
            made = {COLUMNS[0]: plain.mlmodel, **made}
            seconds["stock convert"] = plain.convert_seconds
    with step("Running the package in the interpreter"), torch.no_grad():
        package = load(path)
        found = {
            "original": minilm.similarities(lambda b: model.encoder(**b)[0], batches),
            "rewritten": minilm.similarities(lambda b: optimized(**b)[0], batches),
            "package": minilm.similarities(
                lambda b: torch.from_numpy(package(b)["last_hidden_state"]), batches
            ),
        }
    exact = found["original"]
    return {
        "attention": attention,
        "package": str(path.relative_to(Path.cwd())),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "stock_failures": failures,
        "mil": {name: mil_stats(package).to_json() for name, package in made.items()},
        "sentences": list(minilm.SENTENCES),
        "similarities": [
            {"pair": pair, **{name: values[pair] for name, values in found.items()}}
            for pair in exact
        ],
        "largest_difference": {
            name: max(abs(found[name][pair] - exact[pair]) for pair in exact)
            for name in ("rewritten", "package")
        },
        "reports": optimized.reports,
    }


def _print(result: dict[str, Any]) -> None:
    from lowering.cli.summary import reasons, reports_table

    console = stdout_console()
    reports = result["reports"]
    console.print("[bold]What each pass did[/bold]")
    console.print(reports_table(reports))
    for sentence in [*(note for r in reports for note in r.notes), *reasons(reports)]:
        console.print(escape(sentence))
    console.print("\n[bold]What the model is made of, in MIL[/bold]")
    for route, message in result["stock_failures"].items():
        console.print(f"Stock coremltools on the model as it is, by {route}: {escape(message)}")
    if result["stock_failures"] and COLUMNS[0] in result["mil"]:
        console.print(
            "To have something to compare with, stock is given a ready 4-D mask; ours builds it "
            "from the 2-D one."
        )
    console.print(_mil_table(result["mil"]))
    console.print(", ".join(f"{name} {value:.1f} s" for name, value in result["seconds"].items()))
    console.print("\n[bold]How similar the sentences are[/bold]")
    for number, sentence in enumerate(result["sentences"], 1):
        console.print(f"  {number}  {escape(sentence)}")
    console.print(_similarity_table(result["similarities"]))
    console.print(_differences(result))
    console.print(f"saved {escape(result['package'])}")


def _differences(result: dict[str, Any]) -> str:
    largest = result["largest_difference"]
    return (
        f"Largest difference of a sentence similarity from the original's:\n"
        f"rewritten module {largest['rewritten']:.1e} (bound {REWRITTEN_BOUND:g}), "
        f"fp16 package in the interpreter {largest['package']:.1e} (bound {PACKAGE_BOUND:g})"
    )


def _mil_table(mil: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for column in mil:
        table.add_column(column, justify="right")
    rows = {
        "ops": [str(mil[c]["ops"]) for c in mil],
        **{op: [str(mil[c]["by_type"].get(op, 0)) for c in mil] for op in _OP_TYPES},
        "ops of rank ≠ 4": [str(mil[c]["not_rank4"]) for c in mil],
        "MB of activations": [f"{mil[c]['activation_bytes'] / 1e6:.1f}" for c in mil],
        "largest, MB": [f"{mil[c]['largest_bytes'] / 1e6:.2f}" for c in mil],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def _similarity_table(similarities: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("pair", "original", "rewritten", "package (interpreter)"):
        table.add_column(heading, justify="right")
    for row in similarities:
        first, second = row["pair"]
        values = (f"{row[name]:.5f}" for name in ("original", "rewritten", "package"))
        table.add_row(f"{first + 1}–{second + 1}", *values)
    return table


if __name__ == "__main__":
    main()
