"""``ane-passes report``: one package, in one file that people want to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lowering.cli.arrays import inputs_option, read_arrays
from lowering.cli.common import function_option, guarded, json_option, print_json, step
from lowering.cli.load_model import MODEL_HELP, is_folder, load_model_call, trust_option
from lowering.cli.load_passes import known_passes, with_pass_option

if TYPE_CHECKING:
    from frontend.model_call import ModelCall
    from lowering.ablation.result import Ablation
    from lowering.compression.ladder_result import Ladder
    from lowering.contract.folder import ModelFolder
    from lowering.reporting.asset import AssetReport
    from lowering.reporting.result import Report

HELP = f"""Write a report about a package: where it runs, why, and how far it is from its original.

The HTML page is one file that needs no network: summary, placement of every operator, the repeated
block before and after the passes, growth of the error, tables that sort and filter. Placement and
times are predicted; errors are measured in the interpreter and need MODEL, the original. Of a
folder that `ane-passes export` wrote, each picture is shown with the labels, boxes or masks of
torch and of the package side by side; the folder alone, in the place of PACKAGE, is converted and
held against its own model. Of a Core AI asset nothing is predicted, and its errors are measured in
Apple's own runtime.

{MODEL_HELP}
\b
Examples:
  ane-passes report tiny.mlpackage model.py:tiny -o report.html
  ane-passes report tiny.mlpackage --chip "A17 Pro"
  ane-passes report vit.mlpackage vit/ --pictures cat.png -o report.html
  ane-passes report vit/ --pictures cat.png -o report.html
  ane-passes report tiny.mlpackage model.py:tiny --ablation ablation.json -o report.html
  ane-passes compress tiny.mlpackage model.py:tiny --ladder --json > sizes.json
  ane-passes report tiny.mlpackage model.py:tiny --ladder sizes.json -o report.html
  ane-passes report tiny.mlpackage --format md
  ane-passes report tiny.aimodel model.py:tiny -o report.html
  ane-passes report tiny.mlpackage --format graph-json -o tiny.graph.json
  ane-passes report --ablation ablation.json -o ablation.html

Formats: html, md (tables as text), csv (one line per operator), json (all data), graph-json (the
program with placement and prices, for Model Explorer). All but html go to stdout without -o.
Without PACKAGE the page shows the ablations alone, of as many models as the file holds.

Exit codes: 0 written, 2 the package, the model or the call needs attention.
"""
_FORMATS = ("html", "md", "csv", "json", "graph-json")


@click.command("report", help=HELP, short_help="Write what is known of a package as a page.")
@click.argument("package", type=click.Path(path_type=Path), required=False)
@click.argument("model_spec", required=False, metavar="[MODEL]")
@trust_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write it.")
@click.option(
    "--format", "output_format", type=click.Choice(_FORMATS), help="Default: by -o; else html."
)
@click.option("--chip", default="M4", show_default=True, help="Such as M1 or 'A17 Pro'.")
@click.option(
    "--ablation",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What `ane-passes ablate` wrote about this model.",
)
@click.option(
    "--ladder",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What `ane-passes compress PACKAGE MODEL --ladder --json` printed about this package.",
)
@click.option(
    "--pictures",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A picture, or a folder of them, for MODELs that `ane-passes export` wrote.",
)
@function_option
@inputs_option
@with_pass_option
@json_option
@guarded
def report(
    package: Path | None,
    model_spec: str | None,
    trust: bool,
    output: Path | None,
    output_format: str | None,
    chip: str,
    ablation: Path | None,
    ladder: Path | None,
    pictures: tuple[Path, ...],
    function: str,
    inputs: Path | None,
    own_passes: tuple[str, ...],
    as_json: bool,
) -> None:
    """See :data:`HELP`."""
    if package is None and ablation is None:
        raise click.UsageError("Give a PACKAGE, or --ablation for a page of ablations alone.")
    if package is None and ladder is not None:
        raise click.UsageError("--ladder is shown beside the PACKAGE that it was climbed from.")
    if package is not None and model_spec is None and is_folder(str(package)):
        model_spec = str(package)
    if inputs is not None and model_spec is None:
        raise click.UsageError("--inputs are the original's: give its MODEL too.")
    if pictures and (model_spec is None or not is_folder(model_spec)):
        raise click.UsageError("--pictures needs a folder that `ane-passes export` wrote.")
    if output_format is None:
        from lowering.reporting.write import format_of

        output_format = format_of(output)
    if package is None:
        assert ablation is not None  # one of both is given
        _ablations(ablation, chip, output_format, output or Path("ablation.html"), as_json)
        return
    from lowering.reporting.write import read_ablation, read_ladder, written

    name = None if model_spec is None else model_spec.rpartition(":")[2]
    ablated = None if ablation is None else read_ablation(ablation, name)
    climbed = None if ladder is None else read_ladder(ladder)
    made = _collected(
        package, model_spec, inputs, own_passes, chip, ablated, climbed, trust, pictures, function
    )
    if output is None and (as_json or output_format != "html"):
        click.echo(written(made, "json" if as_json else output_format))
        return
    with step("Writing"):
        text = written(made, output_format)
    _write(text, output or Path(f"{package.stem}.html"), output_format, as_json)


def _write(text: str, path: Path, output_format: str, as_json: bool) -> None:
    from lowering.support.text_file import write_text

    path = write_text(text, path)
    size = path.stat().st_size
    if as_json:
        print_json({"report": str(path), "format": output_format, "bytes": size})
    else:
        click.echo(f"wrote {path} ({size / 1e6:.1f} MB)")


def _ablations(file: Path, chip: str, output_format: str, output: Path, as_json: bool) -> None:
    if output_format != "html":
        raise click.UsageError("Ablations alone are a page; `ane-passes ablate` has other formats.")
    from lowering.reporting.page import ablations_page
    from lowering.reporting.write import read_ablations

    _write(ablations_page(read_ablations(file), chip), output, output_format, as_json)


def _collected(
    package: Path,
    model_spec: str | None,
    inputs: Path | None,
    own_passes: tuple[str, ...],
    chip: str,
    ablation: Ablation | None,
    ladder: Ladder | None,
    trust: bool,
    pictures: tuple[Path, ...],
    function: str,
) -> Report | AssetReport:
    """The report's data; the original is loaded only where one is named."""
    call: ModelCall | ModelFolder | None = None
    if model_spec is not None:
        with step("Loading the model"):
            if is_folder(model_spec):
                from lowering.contract.folder import open_folder

                call = open_folder(model_spec, trust=trust)
            else:
                call = load_model_call(model_spec, trust)
    of: Path | ModelFolder = package
    if is_folder(str(package)):
        from lowering.contract.folder import ModelFolder, open_folder

        if isinstance(call, ModelFolder) and call.path == package:
            of = call
        else:
            of = open_folder(package, trust=trust)
    arrays = None if inputs is None else read_arrays(inputs)
    with step("Reading" if call is None else "Reading, and running both"):
        from lowering.reporting.reporter import collected

        return collected(
            of,
            call,
            inputs=arrays,
            known_passes=known_passes(own_passes),
            chip=chip,
            ablation=ablation,
            ladder=ladder,
            pictures=pictures,
            function=function,
        )
