"""Decoders of several families, exported and held against transformers' own ``generate``.

    python -m benchmarks.generation [FAMILY...] [--brief]

Each is built from its configuration with random weights, three times as large as transformers draws
them so that logits are spread, and exported as it is. *equal*: all tokens of a conversation are
those of ``generate`` (``generation_families.py`` has its turns; encoders read sources of two
lengths); otherwise the first one that differs, with what the chosen one lacks to the expected one
in standard deviations of the logits. Counts are of the function for one token.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from click.testing import CliRunner
from torch import nn

from benchmarks.generation_configs import Tiny
from benchmarks.generation_configs import build as build_small
from benchmarks.generation_families import PRECISIONS, compared, expected
from lowering.cli import main as ane_passes
from lowering.generation import Generator, export_decoder
from lowering.reference import load
from lowering.support.quiet import quiet_third_parties

_CONTEXT, _PREFILL = 128, 16
_SIZES: Mapping[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Model class and what it takes in place of the sizes above.
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "llama": ("LlamaForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {}),
    "gemma3": (
        "Gemma3ForCausalLM",
        {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "mistral": ("MistralForCausalLM", {"sliding_window": 16}),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 32},
    ),
    "mamba": ("MambaForCausalLM", {"state_size": 8}),
    "falcon-h1": (
        "FalconH1ForCausalLM",
        {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_d_ssm": 128},
    ),
}
# With an encoder: the name among all families, see ``generation_configs``.
ENCODERS: Mapping[str, str] = {"t5": "t5", "bart": "bart-seq2seq", "whisper": "whisper-seq2seq"}


def build(name: str) -> nn.Module:
    """The model of one family, in evaluation mode."""
    import transformers

    kind, options = FAMILIES[name]
    cls = getattr(transformers, kind)
    own = {k: v for k, v in _SIZES.items() if "n_embd" not in options or not k.startswith("num_")}
    if "n_embd" in options:
        own = {k: v for k, v in own.items() if k.endswith("_id") or k == "vocab_size"}
    torch.manual_seed(0)
    model: nn.Module = cls(cls.config_class(**{**own, **options})).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and parameter_name.endswith("weight"):
                parameter.mul_(3.0)
    return model


def tiny() -> nn.Module:
    """What the command line exports in README.md."""
    return build("qwen3")


def measured(name: str) -> Tiny:
    """The model of one row."""
    if name in ENCODERS:
        return build_small(ENCODERS[name])
    return Tiny(build(name), None, _CONTEXT)


def row(name: str, folder: Path) -> str:
    """One family as a line of the table."""
    model = measured(name)
    (said, note) = expected(model)
    if note:
        raise click.ClickException(f"{name}: {note}")
    texts = []
    for precision in PRECISIONS:
        report = export_decoder(
            model.model,
            folder / f"{name}-{precision}",
            context=model.context,
            prefill=_PREFILL,
            source=model.source,
            precision=precision,
        )
        texts.append(compared(model, Generator(report.path, precision=precision), said)[1])
    kinds = Counter(op.type for op in load(report.path, function="decode").ops)
    weights = 2 * sum(parameter.numel() for parameter in model.model.parameters())
    different = len({token for turn in said for token in turn.tokens})
    return (
        f"{name:10s} {kinds.total():4d} {kinds['transpose']:3d} {kinds['reshape']:3d} "
        f"{len(report.contract.states):6d}  {report.size / weights:5.2f}  {different:9d}  "
        f"{texts[0]:28s} {texts[1]}"
    )


def on_the_command_line() -> str:
    """Exports and generates as a user would; what was typed and what was printed."""
    shown = []
    with CliRunner().isolated_filesystem():
        source = Path(__file__)
        export = ["export-llm", f"{source}:tiny", "-o", "tiny.mlpackage", "--context", "64"]
        for arguments in (export, ["generate", "tiny.mlpackage", "--ids", "5,9,77,3"]):
            arguments = [*arguments, *(["--max-new-tokens", "16"] if "--ids" in arguments else [])]
            result = CliRunner().invoke(ane_passes, arguments, catch_exceptions=False)
            typed = " ".join(arguments).replace(str(source), "benchmarks/generation.py")
            printed = result.stdout.replace(f"{Path.cwd()}/", "").rstrip()
            shown += [f"$ ane-passes {typed}", *(line.rstrip() for line in printed.splitlines())]
    return "\n".join(shown)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice((*FAMILIES, *ENCODERS)))
@click.option("--brief", is_flag=True, help="The command line with a small model, for README.md.")
def main(names: Sequence[str], brief: bool) -> None:
    """Prints one line for each family."""
    quiet_third_parties()
    if brief:
        click.echo(on_the_command_line())
        return
    click.echo(
        "family      ops   T   R states   size  different  float32                      float16"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in names or (*FAMILIES, *ENCODERS):
            click.echo(row(name, Path(folder)))


if __name__ == "__main__":
    main()
