"""Every decoder family of the installed transformers, exported and held against its ``generate``.

    python -m benchmarks.generation_families [--family NAME]... [--json] [--results FILE [--resume]]
    python -m benchmarks.generation_families --steps ...

Names and classes come from transformers' registry (``generation_configs.py``). Each is exported as
it is, in float32 and in float16; then a conversation is held with both packages: a prompt of
several tokens, a second turn, and after ``reset`` a prompt of a single one. An encoder reads a
source that fills it, and a shorter one after the reset.

A family passes if in float32 all tokens are those of ``generate``, and in float16 all, or the first
that differs lacks no more to the expected one than 2 % of the logits' standard deviation. Where
``generate`` itself departs from its model, the yardstick is the model called anew for each token,
and the line says so. *sight* is by how much the last logits change with the first token of the
prompt, in standard deviations: of a model that does not see it, equal tokens would prove nothing.

With ``--steps`` nothing is converted: torch runs the steps that would be, which takes seconds.

Each family is tried in a process of its own, which may take ``--seconds``. With ``--results`` every
outcome is added to a file as a line of JSON; ``--resume`` leaves out what stands there.

Exit codes: 0 all that could be tried pass, 1 some do not.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import click
import torch

from benchmarks.generation_configs import NotBuilt, Tiny, build, families, main_input, sequence
from benchmarks.generation_steps import FirstOfEquals, TorchGenerator
from frontend.errors import AnePassesError
from lowering.cli.common import EXIT_CHECK_FAILED
from lowering.generation import Generator, export_decoder
from lowering.support.quiet import quiet_third_parties

_PREFILL, _SECONDS, _REASON = 16, 240, 600
_START = 1
_IMPORTED = ("transformers.modeling_utils", "transformers.generation.utils", "coremltools")
"""What every family imports beside."""
_ALLOWED = 0.02  # of the logits' standard deviation
PRECISIONS: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")
_STEPS: Literal["steps"] = "steps"
UNTRIED = ("not built", "transformers")
"""Stages that say nothing about an export."""
_HEADER = f"        {'family':26s}       diff  sight  {'float32':28s}  float16"


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation: what is fed, and how many tokens follow.

    Attributes:
        ids: of the prompt.
        new: how many tokens are generated.
        starts: whether what came before is forgotten.
        source: what an encoder reads first: how many tokens are left out of the longest.
    """

    ids: tuple[int, ...]
    new: int
    starts: bool
    shorter: int = 0

    def fed(self, tiny: Tiny) -> list[int]:
        """What is fed: ``generate`` wants the answer to a source to begin with its start token."""
        return [*([_START] if self.starts and tiny.source is not None else []), *self.ids]


TURNS = (
    Turn(tuple(sequence(1, 21)), 64, True),
    Turn(tuple(sequence(2, 5)), 16, False),
    Turn(tuple(sequence(3, 1)), 16, True, shorter=5),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one family.

    Attributes:
        stage: ``compared``, or where it ended: ``not built``; ``transformers``, whose own
            model raised; ``export``; ``generate``; or ``process``, which was lost.
        reason: of another end than ``compared``, or why not with ``generate``.
        family: its name in the registry.
        kind: class of the model.
        found: precision to what was found, such as ``equal`` or ``turn 1 differs at 7 by 0.003``.
        lacks: precision to what the first token that differs lacks, in standard deviations.
        sight: see the module.
        different: how many different tokens were expected.
        seconds: wall time.
    """

    stage: str
    reason: str = ""
    family: str = ""
    kind: str = ""
    found: dict[str, str] = field(default_factory=dict)
    lacks: dict[str, float] = field(default_factory=dict)
    sight: float = 0.0
    different: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether its packages say what the model says."""
        near = self.lacks.get("fp32") == 0 and self.lacks.get("fp16", 1.0) <= _ALLOWED
        return self.stage == "compared" and (near or self.lacks == {_STEPS: 0})

    def line(self) -> str:
        """As a line of the table."""
        mark = "ok" if self.passed else "-" if self.stage in UNTRIED else "FAIL"
        if self.stage != "compared":
            return f"{self.family:26s} {mark:5s} {self.stage}: {self.reason}"
        said = "  ".join(f"{found:28s}" for found in self.found.values())
        line = f"{self.family:26s} {mark:5s} {self.different:3d} {self.sight:6.2f}  {said}".rstrip()
        return f"{line} (compared with the model: {self.reason})" if self.reason else line


@dataclass(frozen=True)
class Expected:
    """What ``generate`` says in one turn.

    Attributes:
        tokens: the answer.
        logits: (tokens, vocabulary) that they were chosen from.
    """

    tokens: list[int]
    logits: torch.Tensor


def expected(tiny: Tiny) -> tuple[list[Expected], str]:
    """What transformers' own ``generate`` answers in each of ``TURNS``.

    Where it does not say what the model says of the same tokens without a cache, or fails, the
    likeliest tokens by the model itself, and why.
    """
    from transformers import GenerationConfig

    # A family's own defaults forbid or force tokens; the packages leave that to who drives them.
    tiny.model.generation_config = GenerationConfig(
        pad_token_id=0, bos_token_id=1, eos_token_id=None, decoder_start_token_id=_START
    )
    try:
        found = _answers(tiny, _generated)
    except Exception as error:  # a family's own code may raise anything
        return _answers(tiny, _recomputed), f"generate: {_line(error)}"
    first = _recomputed(tiny, TURNS[0].fed(tiny), 1, 0).logits
    off = float((found[0].logits[:1] - first).abs().max() / first.std())
    if not off <= _ALLOWED:
        return _answers(tiny, _recomputed), f"generate is off its own model by {off:.2f}"
    return found, ""


def _answers(tiny: Tiny, answer: Callable[[Tiny, list[int], int, int], Expected]) -> list[Expected]:
    found: list[Expected] = []
    text: list[int] = []
    for turn in TURNS:
        text = [*([] if turn.starts else text), *turn.fed(tiny)]
        with FirstOfEquals():
            found.append(answer(tiny, text, turn.new, turn.shorter))
        text = [*text, *found[-1].tokens]
    return found


def _generated(tiny: Tiny, text: list[int], new: int, shorter: int) -> Expected:
    from transformers import GenerationMixin

    ids = torch.tensor([text])
    given = {"inputs": ids, "attention_mask": torch.ones_like(ids)}
    if tiny.source is not None:
        given = {"decoder_input_ids": ids, "inputs": tiny.read(shorter)}
    model: Any = tiny.model
    with torch.no_grad():
        answer: Any = GenerationMixin.generate(
            model,
            **given,
            max_new_tokens=new,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return Expected(answer.sequences[0].tolist()[-new:], torch.cat(answer.logits))


def _recomputed(tiny: Tiny, text: list[int], new: int, shorter: int) -> Expected:
    """By the model without a cache, every token anew."""
    logits: list[torch.Tensor] = []
    while len(logits) < new:
        tokens = [int(row.argmax()) for row in logits]
        logits.append(_called(tiny, [*text, *tokens], shorter)[-1])
    return Expected([int(row.argmax()) for row in logits], torch.stack(logits))


def _called(tiny: Tiny, text: list[int], shorter: int = 0) -> torch.Tensor:
    """(tokens, vocabulary) of the model without a cache."""
    name = "input_ids" if tiny.source is None else "decoder_input_ids"
    given = {} if tiny.source is None else {main_input(tiny.model): tiny.read(shorter)}
    with torch.no_grad():
        logits: torch.Tensor = tiny.model(
            **{name: torch.tensor([text])}, **given, use_cache=False
        ).logits
    return logits[0]


def compared(
    tiny: Tiny, generator: Generator | TorchGenerator, said: Sequence[Expected]
) -> tuple[float, str]:
    """What the first token that differs lacks, and where; 0 without any."""
    for number, (turn, wanted) in enumerate(zip(TURNS, said, strict=True), start=1):
        if turn.starts:
            generator.reset()
            if tiny.source is not None:
                read = tiny.read(turn.shorter)
                if isinstance(generator, Generator):
                    generator.encode((read[0] if isinstance(tiny.source, int) else read).numpy())
                else:
                    generator.encode(read)
        answer = generator.generate(turn.fed(tiny), turn.new)
        at = next((i for i, token in enumerate(answer) if token != wanted.tokens[i]), None)
        if at is not None:
            logits = wanted.logits[at]
            lacks = (logits[wanted.tokens[at]] - logits[answer[at]]) / logits.std()
            return float(lacks), f"turn {number} differs at {at} by {lacks:.4f}"
    return 0.0, "equal"


def sight(tiny: Tiny) -> float:
    """How much the last logits change with the first token, in standard deviations."""
    text = list(TURNS[0].ids)
    one = _called(tiny, text)[-1]
    two = _called(tiny, [3 + (text[0] - 2) % 100, *text[1:]])[-1]
    return float((one - two).abs().max() / one.std())


def tried(family: str, steps: bool = False) -> Outcome:
    """One family, in this process; of its ``steps`` alone."""
    quiet_third_parties()
    torch.set_num_threads(1)
    start = time.monotonic()
    outcome = replace(_tried(family, steps), family=family, kind=families()[family])
    return replace(outcome, seconds=round(time.monotonic() - start, 1))


def _tried(family: str, steps: bool) -> Outcome:
    try:
        tiny = build(family)
    except NotBuilt as error:
        return Outcome(stage="not built", reason=_line(error))
    try:
        (said, note), seen = expected(tiny), sight(tiny)
    except Exception as error:  # a family's own code may raise anything
        return Outcome(stage="transformers", reason=_line(error))
    found: dict[str, str] = {}
    lacks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in (_STEPS,) if steps else PRECISIONS:
            try:
                generator = _generator(tiny, way, Path(folder))
            except Exception as error:  # one that is none of ours is to be seen as well
                return Outcome(stage="export", reason=_line(error))
            try:
                lacks[way], found[way] = compared(tiny, generator, said)
            except Exception as error:
                return Outcome(stage="generate", reason=_line(error))
    different = len({token for turn in said for token in turn.tokens})
    return Outcome("compared", note, found=found, lacks=lacks, sight=seen, different=different)


def _generator(
    tiny: Tiny, way: Literal["fp32", "fp16", "steps"], folder: Path
) -> Generator | TorchGenerator:
    if way == _STEPS:
        return TorchGenerator(tiny, _PREFILL)
    report = export_decoder(
        tiny.model,
        folder / way,
        context=tiny.context,
        prefill=_PREFILL,
        source=tiny.source,
        precision=way,
    )
    return Generator(report.path, precision=way)


def _line(error: Exception) -> str:
    own = isinstance(error, AnePassesError | NotBuilt)
    text = str(error) if own else f"{type(error).__name__}: {error}"
    return " | ".join(part.strip() for part in text.splitlines() if part.strip())[:_REASON]


def in_processes(names: Sequence[str], seconds: float, steps: bool) -> Iterator[Outcome]:
    """The outcome of each family, tried in a process that may take so long."""
    # The modules are imported once, by the process that all others are forked from.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_IMPORTED])
    for name in names:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(name, steps, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            yield ours.recv() if ours.poll(seconds) else _lost(name, f"more than {seconds:g} s")
        except EOFError:
            process.join()
            yield _lost(name, f"ended with exit code {process.exitcode}")
        finally:
            process.kill()
            process.join()
            ours.close()


def _send(name: str, steps: bool, connection: Connection) -> None:
    connection.send(tried(name, steps))


def _lost(name: str, reason: str) -> Outcome:
    return Outcome("process", reason, name, families()[name])


def kept(results: Path) -> dict[str, Outcome]:
    """The outcomes in a file of results, by family; the last of each counts."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {outcome.family: outcome for outcome in (Outcome(**json.loads(one)) for one in lines)}


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many passed, and how many failed where."""
    tried = [outcome for outcome in outcomes if outcome.stage not in UNTRIED]
    passed = sum(outcome.passed for outcome in tried)
    equal = sum(set(outcome.lacks.values()) == {0.0} for outcome in tried)
    others = Counter(outcome.stage for outcome in outcomes if not outcome.passed)
    rest = ", ".join(f"{count} {stage}" for stage, count in sorted(others.items()))
    return (
        f"{passed} of {len(tried)} families pass, {equal} with all tokens equal in both precisions"
        + (f"; others: {rest}" if rest else "")
    )


@click.command()
@click.option("--family", "chosen", multiple=True, metavar="NAME", help="This one; repeatable.")
@click.option("--seconds", default=_SECONDS, show_default=True, help="That one family may take.")
@click.option("--steps", is_flag=True, help="Run the steps in torch, and convert nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcomes as JSON.")
@click.option("--results", type=click.Path(path_type=Path), help="Add outcomes to this file.")
@click.option("--resume", is_flag=True, help="Leave out the families that --results holds.")
def main(
    chosen: Sequence[str],
    seconds: float,
    steps: bool,
    as_json: bool,
    results: Path | None,
    resume: bool,
) -> None:
    """Prints one line for each family."""
    known = families()
    if unknown := [name for name in chosen if name not in known]:
        raise click.ClickException(f"transformers knows no family {', '.join(unknown)}")
    if resume and results is None:
        raise click.ClickException("--resume needs --results, where outcomes are kept")
    names = list(chosen or known)
    found = kept(results) if resume and results is not None else {}
    found = {name: outcome for name, outcome in found.items() if name in names}
    missing = [name for name in names if name not in found]
    click.echo(_HEADER, err=as_json)
    for number, outcome in enumerate(in_processes(missing, seconds, steps), start=1):
        found[outcome.family] = outcome
        click.echo(f"{number:3d}/{len(missing)} {outcome.line()}", err=as_json)
        if results is not None:
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
    outcomes = [found[name] for name in names]
    if as_json:
        click.echo(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    click.echo(summary(outcomes), err=as_json)
    tried = [outcome for outcome in outcomes if outcome.stage not in UNTRIED]
    if not all(outcome.passed for outcome in tried):
        raise SystemExit(EXIT_CHECK_FAILED)


if __name__ == "__main__":
    main()
