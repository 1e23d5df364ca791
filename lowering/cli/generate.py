"""``ane-passes generate``: run an exported decoder on any OS."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lowering.cli.common import guarded, json_option, print_json, step
from lowering.cli.run_as import run_as_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lowering.generation.checkpoint import Tokenizer

HELP = """Generate with a package of export-llm in the reference interpreter. Works on any OS.

With --tokenizer the prompt is text, and text is written as it comes; without, both are token ids.
The answer goes to stdout, everything else to stderr.

\b
Examples:
  ane-passes generate tiny.mlpackage --ids 5,9,77 --max-new-tokens 16
  ane-passes generate qwen.mlpackage --tokenizer ./Qwen3-0.6B --prompt "The sea"
  ane-passes generate tiny.mlpackage --ids 5 --temperature 0.8 --top-p 0.9 --seed 3

Exit codes: 0 done, 2 the package or the call needs attention.
"""


@click.command("generate", help=HELP, short_help="Generate with a package, on any OS.")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--prompt", help="Text to continue; needs --tokenizer.")
@click.option("--ids", help="Token ids to continue, with commas between.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder that transformers' AutoTokenizer reads.",
)
@click.option(
    "--source", help="What an encoder reads: token ids with commas between, or a file FILE.npy."
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=int, help="Draw from so many of the likeliest.")
@click.option("--top-p", type=float, help="Draw from the likeliest that reach this together.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws."
)
@click.option("--stop", type=int, multiple=True, help="A token that ends the answer.")
@run_as_option
@json_option
@guarded
def generate(
    package: Path,
    prompt: str | None,
    ids: str | None,
    tokenizer: Path | None,
    source: str | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    stop: tuple[int, ...],
    precision: str,
    as_json: bool,
) -> None:
    """See ``HELP``."""
    with step(f"Loading {package}"):
        from lowering.generation.checkpoint import Tokenizer
        from lowering.generation.generator import Generator
        from lowering.generation.sampling import Sampling

        sampling = Sampling(temperature, top_k, top_p, seed)
        words = None if tokenizer is None else Tokenizer(tokenizer)
        tokens = _prompt(prompt, ids, words)
        generator = Generator(package, precision=precision)
        if source is not None:
            generator.encode(_source(source))

    def write(text: str) -> None:
        if not as_json:
            click.echo(text, nl=False)

    streamed = (lambda token: write(f"{token} ")) if words is None else words.streamed(write)
    ends = {*stop, *(() if words is None else words.end)}
    begun = time.perf_counter()
    new = generator.generate(
        tokens, max_new_tokens, sampling=sampling, stop=ends, on_token=streamed
    )
    seconds = time.perf_counter() - begun
    if as_json:
        text = None if words is None else words.decode(new)
        print_json({"prompt": tokens, "new": new, "text": text, "calls": generator.calls})
        return
    click.echo()
    calls = ", ".join(f"{name} {count}×" for name, count in generator.calls.items())
    click.echo(f"{len(new)} tokens in {seconds:.1f} s: {calls}", err=True)


def _source(given: str) -> list[int] | NDArray[np.float32]:
    if given.endswith(".npy"):
        import numpy as np

        try:
            values: NDArray[np.float32] = np.load(given, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise click.UsageError(f"--source: {error}") from None
        return values
    return _numbers("--source", given)


def _numbers(option: str, given: str) -> list[int]:
    try:
        return [int(part) for part in given.split(",")]
    except ValueError:
        raise click.UsageError(
            f"{option} takes whole numbers with commas between, not {given!r}"
        ) from None


def _prompt(prompt: str | None, ids: str | None, words: Tokenizer | None) -> list[int]:
    if (prompt is None) == (ids is None):
        raise click.UsageError("give --prompt or --ids")
    if prompt is not None:
        if words is None:
            raise click.UsageError("--prompt needs --tokenizer; token ids go to --ids")
        return words.encode(prompt)
    return _numbers("--ids", str(ids))
