"""The dispatcher's price of six BERT-base layers: stock coremltools beside each form of ours.

Prices are those that an M4's dispatcher decides by, all operators on the ANE and without switches:
a compiler's estimate, predicted, not a run time. The target for the best form is the ratio to
stock that the hand-made forms come to (lower is better than that).

Exit codes: 0 the targets are met, 1 one is missed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import torch
from rich.table import Table
from torch import nn

from lowering.cli.common import (
    EXIT_CHECK_FAILED,
    guarded,
    json_option,
    print_json,
    stdout_console,
    step,
)

if TYPE_CHECKING:
    import coremltools as ct

LAYERS = 6
# Tokens to the ratio stock / best that convolutions with native attention gave when their
# programs were written by hand (M4, the same prices).
TARGETS = {128: 2.9, 512: 3.6, 1536: 4.8}
SYSTEM = "iOS18"


@dataclass(frozen=True)
class Priced:
    """A program's price.

    Attributes:
        name: stock, or the form of attention.
        ops: MIL operators.
        ms: the dispatcher's price of all operators on the ANE, milliseconds; *predicted*.
    """

    name: str
    ops: int
    ms: float


class Encoder(nn.Module):
    """Six BERT-base layers on hidden states (1, S, 768), with an additive mask (1, 1, 1, S)."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig
        from transformers.models.bert.modeling_bert import BertLayer

        config = BertConfig(attn_implementation="sdpa")
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(LAYERS))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Hidden states in, hidden states out."""
        for layer in self.layers:
            out = layer(hidden, mask)
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden


def priced(name: str, mlmodel: ct.models.MLModel) -> Priced:
    """The price of a converted model.

    Raises:
        KeyError: an operator cannot run on the ANE.
    """
    from lowering import plan

    found = plan(mlmodel)
    return Priced(name, len(found.ops), sum(op.cost_ms["ane"] for op in found.ops))


def prices(tokens: int) -> list[Priced]:
    """Stock first, then each form of attention."""
    import coremltools as ct

    import passes
    from benchmarks.stock import stock_convert
    from lowering import convert
    from lowering.ablation.variants import choices_of, variant_with
    from passes.split_attention import SplitAttention

    torch.manual_seed(0)
    model = Encoder().eval()
    inputs = (torch.randn(1, tokens, 768), torch.zeros(1, 1, 1, tokens))
    with step(f"{tokens} tokens, stock"):
        found = [priced("stock", stock_convert(model, inputs).mlmodel)]
    for form in choices_of(SplitAttention.forms, SYSTEM):
        with step(f"{tokens} tokens, {form}"):
            variant = variant_with(passes.DEFAULT_PIPELINE, {"attention": form})
            optimized = passes.optimize_for_ane(model, inputs, pipeline=variant.pipeline)
            system = ct.target[SYSTEM]
            mlmodel = convert(optimized, minimum_deployment_target=system, skip_model_load=True)
            found.append(priced(form, mlmodel))
    return found


@click.command(help=__doc__)
@click.option(
    "--tokens", type=click.IntRange(min=1), multiple=True, help="Default: 128, 512, 1536."
)
@json_option
@guarded
def main(tokens: tuple[int, ...], as_json: bool) -> None:
    """See the module."""
    found = {count: prices(count) for count in tokens or TARGETS}
    ratios = {n: rows[0].ms / min(row.ms for row in rows[1:]) for n, rows in found.items()}
    missed = [n for n, ratio in ratios.items() if ratio < TARGETS.get(n, 0)]
    if as_json:
        rows = {n: [vars(row) for row in rows] for n, rows in found.items()}
        print_json({"kind": "predicted", "prices": rows, "ratios": ratios, "missed": missed})
    else:
        _print(found, ratios)
    if missed:
        sys.exit(EXIT_CHECK_FAILED)


def _print(found: dict[int, list[Priced]], ratios: dict[int, float]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("tokens", justify="right")
    for row in next(iter(found.values())):
        table.add_column(row.name, justify="right")
    table.add_column("stock / best", justify="right")
    table.add_column("target", justify="right")
    for count, rows in found.items():
        target = f"≥ {TARGETS[count]}" if count in TARGETS else ""
        cells = [f"{row.ms:.3g} ({row.ops})" for row in rows]
        mark = "[red]✗[/red] " if ratios[count] < TARGETS.get(count, 0) else ""
        table.add_row(str(count), *cells, f"{mark}{ratios[count]:.2f}×", target)
    console = stdout_console()
    console.print(table)
    console.print(
        "\nMilliseconds of the dispatcher's price, predicted, all on the ANE; in brackets the "
        "operators; ✗ a missed target."
    )


if __name__ == "__main__":
    main()
