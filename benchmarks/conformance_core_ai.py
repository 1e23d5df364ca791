"""Small functions through torch, our package in our interpreter, and Core AI in Apple's runtime.

    python -m benchmarks.conformance_core_ai [NAMES]... [--json]

Needs the extra ``ane-passes[coreai]``. Each function is captured once and converted to both back
ends in float32, without passes; all three run on the same inputs. Where one of them computes
something else than the others, or refuses, it is listed with the reason that is known for it
(``benchmarks/conformance_core_ai_cases.py``). Functions are converted several at a time, and alone
where a group differs.

Exit codes: 0 every difference has a known reason and every reason is needed, 1 otherwise.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import lowering
from benchmarks.conformance_core_ai_cases import BACK_ENDS, KNOWN, edges
from benchmarks.torch_release import Function, functions
from frontend.capturing import capture
from frontend.errors import AnePassesError
from lowering.cli.common import EXIT_CHECK_FAILED, stdout_console
from lowering.support.quiet import quiet_coremltools

RTOL, ATOL = 1e-4, 1e-5
# Functions in one program: a conversion and a run for so many.
GROUP = 16
AGREES, REFUSED = "", "refused"
_LONGEST_REASON = 160
# Converts a module and runs it on inputs by name.
Run: TypeAlias = Callable[[nn.Module, dict[str, Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Case:
    """A function and what became of it.

    Attributes:
        name: of the function.
        found: for each of ``BACK_ENDS``, ``""`` where it agrees with torch, or what differs.
        both: whether the two back ends agree with each other where both differ from torch.
    """

    name: str
    found: dict[str, str]
    both: bool = False

    @property
    def agrees(self) -> bool:
        """Whether all three agree."""
        return not any(self.found.values())

    @property
    def who(self) -> str:
        """The back ends that differ or refuse, as ``KNOWN`` has them."""
        said = [
            f"{end} refuses" if what.startswith(REFUSED) else end
            for end, what in self.found.items()
            if what
        ]
        return ", ".join(said)

    @property
    def reason(self) -> str | None:
        """What is known of this difference; ``None`` where it is new, or another one."""
        known = KNOWN.get(self.name)
        return known[1] if known is not None and known[0] == self.who else None


class _Functions(nn.Module):
    """Several functions of ``x`` and ``y`` (B, N, C) and ``image`` (B, C, H, W), float32."""

    def __init__(self, chosen: Sequence[Function]) -> None:
        super().__init__()
        self.chosen = tuple(chosen)

    def forward(self, x: Tensor, y: Tensor, image: Tensor) -> tuple[Tensor, ...]:
        """The result of each."""
        return tuple(_first(function(x, y, image)) for function in self.chosen)


def _first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """What a function returns, or the first of what it returns: values, without their places."""
    return result if isinstance(result, Tensor) else result[0]


def inputs() -> dict[str, Tensor]:
    """What every function is called with: positive numbers, as most functions take them."""
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.rand(2, 3, 4, generator=generator) * 0.8 + 0.1,
        "y": torch.rand(2, 3, 4, generator=generator) * 0.8 + 0.1,
        "image": torch.rand(1, 4, 8, 8, generator=generator) * 0.8 + 0.1,
    }


def compared(
    chosen: Sequence[tuple[str, Function]], done: Callable[[Case], None] = lambda case: None
) -> list[Case]:
    """A case for each function, in order."""
    cases: list[Case] = []
    for start in range(0, len(chosen), GROUP):
        for case in _group(chosen[start : start + GROUP]):
            cases.append(case)
            done(case)
    return cases


def _group(chosen: Sequence[tuple[str, Function]]) -> list[Case]:
    """Cases of a group; what a program of many computes otherwise is looked at alone."""
    given = inputs()
    found = {end: _results(run, chosen, given) for end, run in _RUNS.items()}
    cases = []
    for number, (name, function) in enumerate(chosen):
        expected = _first(function(*given.values()))
        case = _case(name, expected, {end: values[number] for end, values in found.items()})
        if len(chosen) > 1 and any(_is_difference(what) for what in case.found.values()):
            (case,) = _group([(name, function)])
        cases.append(case)
    return cases


def _results(
    run: Run, chosen: Sequence[tuple[str, Function]], given: dict[str, Tensor]
) -> list[Tensor | str]:
    """What one back end makes of each function; a group that it refuses is taken in halves."""
    module = _Functions([function for _, function in chosen])
    try:
        with warnings.catch_warnings(), torch.no_grad(), quiet_coremltools():
            warnings.simplefilter("ignore")
            return list(run(module, given))
    except AnePassesError as error:
        if len(chosen) == 1:
            return [f"{REFUSED}: {' '.join(str(error).split())[:_LONGEST_REASON]}"]
    middle = len(chosen) // 2
    return [*_results(run, chosen[:middle], given), *_results(run, chosen[middle:], given)]


def _is_difference(what: str) -> bool:
    return what != AGREES and not what.startswith(REFUSED)


def _case(name: str, expected: Tensor, found: dict[str, Tensor | str]) -> Case:
    said = {
        end: value if isinstance(value, str) else difference(value, expected)
        for end, value in found.items()
    }
    first, second = found.values()
    both = (
        isinstance(first, Tensor)
        and isinstance(second, Tensor)
        and not difference(first, second)
        and any(said.values())
    )
    return Case(name, said, both)


def difference(found: Tensor, expected: Tensor) -> str:
    """What sets ``found`` apart, ``""`` where nothing does; NaN equals NaN."""
    # Core ML has no outputs of rank 0.
    if found.shape != expected.shape and (found.shape, expected.shape) != ((1,), ()):
        return f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    a, b = found.detach().double().flatten(), expected.detach().double().flatten()
    off = ~torch.isclose(a, b, RTOL, ATOL, equal_nan=True)
    if not bool(off.any()):
        return AGREES
    worst = torch.where(off, (a - b).abs().nan_to_num(torch.inf, torch.inf), -1).argmax()
    return f"{int(off.sum())} of {off.numel()}: {a[worst]:.6g} instead of {b[worst]:.6g}"


def _package(module: nn.Module, given: dict[str, Tensor]) -> list[Tensor]:
    made = lowering.convert(capture(module, tuple(given.values())), precision="float32")
    found = lowering.predict(made, _used(made.get_spec().description.input, given))
    return [torch.as_tensor(value) for value in found.values()]


def _core_ai(module: nn.Module, given: dict[str, Tensor]) -> list[Tensor]:
    program = capture(module, tuple(given.values()))
    made = lowering.convert(program, format="aimodel", precision="float32")
    found = lowering.predict(made, _used(made.interface.inputs, given))
    return [torch.as_tensor(value) for value in found.values()]


def _used(ports: Sequence[object], given: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {str(getattr(port, "name", "")) for port in ports}
    return {name: value for name, value in given.items() if name in names}


_RUNS: dict[str, Run] = dict(zip(BACK_ENDS, (_package, _core_ai), strict=True))


def table(cases: Sequence[Case]) -> Table:
    """What differs, and why."""
    made = Table("function", *BACK_ENDS, "why", box=None)
    for case in cases:
        if not case.agrees:
            same = " (both alike)" if case.both else ""
            cells = [what or "as torch" for what in case.found.values()]
            made.add_row(case.name, *cells, (case.reason or "NOT KNOWN") + same)
    return made


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def main(names: tuple[str, ...], as_json: bool) -> None:
    """See the module."""
    known = dict([*functions(), *edges()])
    unknown = set(names) - set(known)
    if unknown:
        raise click.UsageError(f"no such function: {', '.join(sorted(unknown))}")
    chosen = [(name, known[name]) for name in names or known]
    progress = Console(stderr=True)
    number = 0

    def done(case: Case) -> None:
        nonlocal number
        number += 1
        said = "agrees" if case.agrees else case.who
        progress.print(f"{number}/{len(chosen)} {case.name}: {said}", markup=False)

    cases = compared(chosen, done)
    new = [case.name for case in cases if not case.agrees and case.reason is None]
    gone = [case.name for case in cases if case.agrees and case.name in KNOWN]
    if as_json:
        rows = [{**asdict(case), "reason": case.reason} for case in cases]
        print(json.dumps({"cases": rows, "new": new, "gone": gone}, indent=1))
    else:
        output = stdout_console()
        output.print(table(cases))
        agreeing = sum(case.agrees for case in cases)
        output.print(f"{agreeing} of {len(cases)} agree in all three", highlight=False)
        for what, which in (("no known reason", new), ("agrees by now", gone)):
            if which:
                output.print(f"{what}: {', '.join(which)}", highlight=False, soft_wrap=True)
    sys.exit(EXIT_CHECK_FAILED if new or gone else 0)


if __name__ == "__main__":
    main()
