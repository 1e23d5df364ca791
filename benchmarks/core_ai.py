"""Models of the zoo through Core AI and Apple's own runtime, with our passes and without.

    python -m benchmarks.core_ai [NAMES]... [--family FAMILY] [--json]

Needs the extra ``ane-passes[coreai]``. *With passes*: rewritten by ``optimize_for_ane``, made by
``lowering.convert(..., format="aimodel")``. *Plain*: ``torch.export``, coreai-torch's own table of
decompositions, its own converter. Both in float32, run in Apple's runtime for Linux on inputs that
neither has seen, and right within a relative L2 error of 1e-3 of the module.

Exit codes: 0 at least 90 % of the models are right with passes, 1 fewer.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import lowering
import passes
from benchmarks.zoo.catalog import entries
from benchmarks.zoo.entry import calibrate_batch_norms
from frontend.errors import AnePassesError
from lowering.core_ai.runtime import run_asset
from lowering.support.quiet import quiet_coremltools
from lowering.verification.parity import rel_l2

FAMILIES = ("plain", "text", "vision", "speech")
WEIGHTS_SEED, CAPTURE_SEED, CHECK_SEED = 0, 1, 2
RIGHT = 1e-3
ASKED = 0.9


def measure(name: str) -> dict[str, str]:
    """``{"ours": verdict, "plain": verdict}``; a verdict is ``right``, or what went wrong."""
    entry = entries()[name][1]
    torch.manual_seed(WEIGHTS_SEED)
    with quiet_coremltools():
        module = entry.build().eval()
    torch.manual_seed(CAPTURE_SEED)
    example = entry.draw(module)
    calibrate_batch_norms(module, example)
    torch.manual_seed(CHECK_SEED)
    check = entry.draw(module)
    return {
        "ours": _verdict(lambda: _ours(module, example, check)),
        "plain": _verdict(lambda: _plain(module, example, check)),
    }


def _verdict(error_of: Callable[[], float]) -> str:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            error = error_of()
    except AnePassesError as error_:
        return " ".join(str(error_).split())[:200]
    except Exception as error_:  # the plain side may raise whatever torch and coreai-torch raise
        lines = str(error_).splitlines()
        return f"{type(error_).__name__}: {lines[0] if lines else ''}"[:200]
    return "right" if error < RIGHT else f"differs: relative L2 {error:.1e}"


def _ours(module: nn.Module, example: Mapping[str, Any], check: Mapping[str, Any]) -> float:
    optimized = passes.optimize_for_ane(module, kwargs=dict(example))
    made = lowering.convert(optimized, format="aimodel", precision="float32")
    found = lowering.verify(made, optimized, (), dict(check))
    if found.error is not None:
        raise lowering.CoreAIError(found.error)
    return max(output.rel_l2 for output in found.outputs)


def _plain(module: nn.Module, example: Mapping[str, Any], check: Mapping[str, Any]) -> float:
    import coreai_torch

    program = torch.export.export(module, (), dict(example))
    program = program.run_decompositions(coreai_torch.get_decomp_table())
    maker = coreai_torch.TorchConverter(mode=coreai_torch.TorchConverter.Mode.RELEASE)
    with contextlib.redirect_stdout(io.StringIO()):  # where it reports progress
        converted = maker.add_exported_program(program).to_coreai()
    leaves = [leaf for leaf in pytree.tree_leaves(dict(check)) if isinstance(leaf, Tensor)]
    given = dict(zip(program.graph_signature.user_inputs, leaves, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        asset = Path(folder) / "plain.aimodel"
        converted.save_asset(asset)
        found = run_asset(asset, {str(name): _narrowed(value) for name, value in given.items()})
    wanted = [leaf for leaf in pytree.tree_leaves(module(**check)) if isinstance(leaf, Tensor)]
    names = [str(name) for name in program.graph_signature.user_outputs]
    if len(found) != len(wanted):
        raise RuntimeError(f"{len(found)} outputs instead of {len(wanted)}")
    return max(
        rel_l2(torch.from_numpy(found[name]), value)
        for name, value in zip(names, wanted, strict=True)
    )


def _narrowed(value: Tensor) -> Any:
    return value.to({torch.int64: torch.int32}.get(value.dtype, value.dtype)).numpy()


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--family", "families", type=click.Choice(FAMILIES), multiple=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def main(names: tuple[str, ...], families: tuple[str, ...], as_json: bool) -> None:
    """See the module."""
    wanted = families or FAMILIES
    chosen = list(names) or [n for n, (family, _) in entries().items() if family in wanted]
    progress = Console(stderr=True)
    found: dict[str, dict[str, str]] = {}
    for number, name in enumerate(chosen, 1):
        found[name] = measure(name)
        progress.print(f"{number}/{len(chosen)} {name}: {found[name]['ours']}", markup=False)
    right = {
        side: sum(entry[side] == "right" for entry in found.values()) for side in ("ours", "plain")
    }
    if as_json:
        print(json.dumps({"models": found, "right": right}, indent=1))
    else:
        table = Table("model", "with our passes", "plain export")
        for name, entry in found.items():
            table.add_row(name, entry["ours"], entry["plain"])
        Console().print(table)
        print(f"right: {right['ours']} of {len(found)} with our passes, {right['plain']} plain")
    sys.exit(right["ours"] < ASKED * len(found))


if __name__ == "__main__":
    main()
