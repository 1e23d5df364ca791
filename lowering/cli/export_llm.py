"""``ane-passes export-llm``: a decoder of transformers as one package for generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import click
from rich.markup import escape
from rich.table import Table

from lowering.cli.common import guarded, json_option, print_json, stdout_console, step
from lowering.cli.load_model import load_decoder, trust_option

if TYPE_CHECKING:
    from torch import Tensor, nn

HELP = """Export a decoder of transformers, unmodified, for generation with a cache.

MODEL names a function that returns the model (model.py:tiny), as for the other verbs, or is a
folder that transformers' from_pretrained reads. The package has a function for single tokens and
one for runs of the prompt, which share their weights, and keeps its cache in Core ML states (iOS
18). Each function is held against the model before it is converted. Beside the package a Swift file
shows how to drive it; nothing here has compiled that file.

\b
Examples:
  ane-passes export-llm model.py:tiny -o tiny.mlpackage --context 2048
  ane-passes export-llm ./Qwen3-0.6B -o qwen.mlpackage --context 512,2048 --prefill 16,128
  ane-passes export-llm model.py:tiny -o tiny.mlpackage --context 256 --cache io --no-swift
  ane-passes export-llm ./Qwen3-4B -o qwen.mlpackage --context 2048 --chunk-bytes iOS
  ane-passes export-llm model.py:whisper -o whisper.mlpackage --context 448 --source 80,3000

Exit codes: 0 exported, 2 the model or the call needs attention.
"""


class _Numbers(click.ParamType):
    """One number, or several with commas between."""

    name = "N[,N...]"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers such as 64 or 16,128", param, ctx)


@click.command("export-llm", help=HELP, short_help="Write a package that generates.")
@click.argument("model_spec", metavar="MODEL")
@trust_option
@click.option("-o", "--output", required=True, metavar="PACKAGE", help="Where to write it.")
@click.option(
    "--context", type=_Numbers(), required=True, help="Tokens that fit; several: one function each."
)
@click.option(
    "--prefill",
    type=_Numbers(),
    help="Tokens of a prompt taken at once, 64 by default; 0 for none.",
)
@click.option(
    "--decode",
    type=_Numbers(),
    default="1",
    show_default=True,
    help="Tokens of a step whose logits are all returned.",
)
@click.option(
    "--cache",
    type=click.Choice(("state", "state-blend", "io")),
    default="state",
    show_default=True,
    help="States written at the position, or with a mask, or inputs and outputs.",
)
@click.option(
    "--window",
    type=click.Choice(("ring", "full")),
    default="ring",
    show_default=True,
    help="What layers with a window keep.",
)
@click.option(
    "--source",
    type=_Numbers(),
    help="Of a model with an encoder: how many tokens it reads, or the sizes of its input "
    "without the batch (80,3000 of a Whisper).",
)
@click.option(
    "--embeddings",
    type=click.Choice(("inside", "apart")),
    default="inside",
    show_default=True,
    help="The table in the package, or in NAME.embeddings.npy beside it; rows are then an input.",
)
@click.option(
    "--logits",
    default="needed",
    show_default=True,
    metavar="needed|all|last|argmax|topk:N",
    help="Of all tokens of a decode step and the last of a prompt; of all; of the last; or the "
    "likeliest tokens, chosen in the package.",
)
@click.option(
    "--head",
    type=click.IntRange(min=1),
    metavar="N",
    help="Compute the head in tiles of so many outputs (16384 up to A15, 65536 from A16 on).",
)
@click.option(
    "--precision",
    type=click.Choice(("fp16", "fp32", "safe")),
    default="fp16",
    show_default=True,
    help="safe: float16 but for the operators that it spoils.",
)
@click.option(
    "--compress", metavar="RUNG", help="Weights in fewer bits, as for compress: int8, ..."
)
@click.option(
    "--chunk-bytes",
    metavar="N|iOS|macOS",
    help="Cut the decoder into packages of at most so many bytes, or of the system's limit, in a "
    "folder NAME.chunks.",
)
@click.option("--overwrite", is_flag=True, help="Replace a package that stands there.")
@click.option("--swift/--no-swift", default=True, show_default=True, help="Write the Swift file.")
@json_option
@guarded
def export_llm(
    model_spec: str,
    trust: bool,
    output: str,
    context: tuple[int, ...],
    prefill: tuple[int, ...] | None,
    decode: tuple[int, ...],
    cache: Any,
    window: Any,
    source: tuple[int, ...] | None,
    embeddings: Literal["inside", "apart"],
    logits: str,
    head: int | None,
    precision: Any,
    compress: str | None,
    chunk_bytes: str | None,
    overwrite: bool,
    swift: bool,
    as_json: bool,
) -> None:
    """See ``HELP``."""
    with step("Loading the model"):
        model = cast("nn.Module", load_decoder(model_spec, trust).model)
        from lowering.generation.export import export_decoder
        from lowering.generation.swift import write_swift
        from lowering.package.folder import stored_bytes
    with step("Exporting"):
        report = export_decoder(
            model,
            output,
            context=context,
            prefill=prefill,
            decode=decode,
            cache=cache,
            window=window,
            source=_source(source),
            embeddings=embeddings,
            logits=logits,
            head=head,
            precision=precision,
            compress=compress,
            chunk_bytes=int(chunk_bytes)
            if chunk_bytes and chunk_bytes.isdecimal()
            else chunk_bytes,
            overwrite=overwrite,
        )
        snippet = write_swift(report.path, report.contract) if swift else None
    if as_json:
        print_json(report.to_json() | {"swift": None if snippet is None else str(snippet)})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("function", "tokens", "context", "logits of"):
        table.add_column(column, justify="left" if column == "function" else "right")
    for name, function in report.contract.steps.items():
        of = "one" if function.last else "all"
        best = "" if function.best is None else f", best {function.best}"
        table.add_row(name, str(function.tokens), str(function.context), of + best)
    if (read := report.contract.source) is not None:
        table.add_row(read.function, " × ".join(map(str, read.shape[1:])), "", "none")
    console = stdout_console()
    console.print(table)
    for name, shape in report.contract.states.items():
        console.print(f"{name} {' × '.join(map(str, shape))}, {report.contract.form}")
    if (apart := report.contract.table) is not None:
        from frontend.decoder.embedding import ROWS

        console.print(f"{ROWS} {apart.width}, rows of {escape(apart.file)}")
    for part in report.contract.parts:
        size = stored_bytes(report.path / part.file)
        console.print(f"{escape(part.file)}, {size / 1e6:.1f} MB")
    console.print(f"saved {escape(str(report.path))}, {report.size / 1e6:.1f} MB")
    if snippet is not None:
        console.print(f"      {escape(str(snippet))} (not compiled here)")


def _source(sizes: tuple[int, ...] | None) -> int | Tensor | None:
    import torch

    if sizes is None or len(sizes) == 1:
        return None if sizes is None else sizes[0]
    return torch.zeros(1, *sizes)
