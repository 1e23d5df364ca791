"""``export-llm`` and ``generate`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lowering.cli import main
from lowering.generation.contract import Contract, PartContract, StepContract, TableContract
from lowering.generation.export import ExportReport
from lowering.generation.generator import Generator
from lowering.generation.swift import swift_source, write_swift
from tests.lowering.generation.families import prompt

MODEL = """
from tests.lowering.generation.families import qwen3

def tiny():
    return qwen3(num_hidden_layers=1)

def training():
    return qwen3(num_hidden_layers=1).train()
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def test_export_and_generate(model_file: Path, tmp_path: Path):
    package = tmp_path / "tiny.mlpackage"
    done = run(
        "export-llm", f"{model_file}:tiny", "-o", package, "--context", 32, "--prefill", "4,8"
    )
    assert done.exit_code == 0, done.output
    assert "prefill_8" in done.output and "key_cache 1 × 2 × 32 × 16, state" in done.output
    assert (tmp_path / "tiny.swift").is_file()
    ids = prompt(6)
    text = ",".join(map(str, ids))
    shown = run("generate", package, "--ids", text, "--max-new-tokens", 5)
    expected = Generator(package).generate(ids, 5)
    assert shown.stdout.split() == [str(token) for token in expected]
    listed = json.loads(
        run("generate", package, "--ids", text, "--max-new-tokens", 5, "--json").stdout
    )
    assert listed["new"] == expected and listed["calls"] == {"prefill_8": 1, "decode": 4}
    again = run("export-llm", f"{model_file}:tiny", "-o", package, "--context", 32)
    assert again.exit_code == 2 and "a package stands at the output path" in again.output


def test_what_is_wrong_with_a_model_is_one_message(model_file: Path, tmp_path: Path):
    before = set(tmp_path.iterdir())
    done = run("export-llm", f"{model_file}:training", "-o", tmp_path / "x", "--context", 32)
    assert done.exit_code == 2 and "call model.eval() first" in done.output
    assert {p for p in tmp_path.iterdir() if p.name != "__pycache__"} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --prompt or --ids"),
        (("--prompt", "a"), "needs --tokenizer"),
        (("--ids", "a,b"), "whole numbers"),
        (("--ids", "1", "--top-p", "2"), "top_p is out of range"),
        (("--ids", "500"), "outside the vocabulary"),
    ],
)
def test_wrong_calls(exported: ExportReport, options: tuple[str, ...], message: str):
    done = run("generate", exported.path, *options)
    assert done.exit_code == 2
    assert message in done.output


def test_text_is_streamed(exported: ExportReport, tmp_path: Path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(128)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "words")
    options = ("--tokenizer", tmp_path / "words", "--prompt", "w5 w9", "--max-new-tokens", 4)
    done = run("generate", exported.path, *options)
    expected = Generator(exported.path).generate([5, 9], 4)
    assert done.stdout.split() == [f"w{token}" for token in expected]


def test_the_swift_file_knows_the_contract(exported: ExportReport):
    source = swift_source("q.mlpackage", exported.contract)
    assert '[["decode", "prefill"]]' in source and "embeddings" not in source
    assert "let context = 48" in source and "position + 8 <= context" in source
    assert source.count("{") == source.count("}")
    steps = {
        "decode": StepContract(1, 64, False, False, False),
        "prefill": StepContract(8, 64, True, False, True),
    }
    careful = swift_source("m", Contract(64, 9, "state", (32,), {}, steps))
    for condition in ("rest.count >= 8", "position == 0", "position % 32 + 8 <= 32"):
        assert condition in careful
    alone = Contract(64, 9, "state", (), {}, {"decode": steps["decode"]})
    assert "prefill" not in swift_source("m", alone)


@pytest.mark.parametrize("apart", [True, False])
def test_the_swift_file_of_parts(apart: bool, tmp_path: Path):
    shapes = {"key_cache": (1, 2, 64, 16), "value_cache": (1, 2, 64, 16)}
    parts = (
        PartContract("part_1.mlpackage", shapes, (0, 1)),
        PartContract("part_2.mlpackage", {}, (1, 1)),
    )
    steps = {"decode": StepContract(1, 64, False, False, False)}
    table = TableContract("embeddings.npy", 8, "float16", "") if apart else None
    embedder = None if apart else "embed"
    contract = Contract(64, 9, "state", (), shapes, steps, None, table, parts, embedder)
    written = write_swift(tmp_path / "m.chunks", contract)
    assert written == tmp_path / "m.swift"
    source = written.read_text()
    assert "part_1.mlpackage, part_2.mlpackage" in source
    assert "let hasState = [true, false]" in source
    assert 'inputs["hidden"] = result.featureValue(for: "hidden_new")' in source
    assert source.count("{") == source.count("}") and source.count("(") == source.count(")")
    if apart:
        assert 'inputs: [String: Any] = ["inputs_embeds": try rows(of: padded)]' in source
        assert "let size = 8 * 2" in source and "embeddings: URL" in source
    else:
        assert '[["decode"], ["decode", "embed_1"]]' in source and "URL]) throws" in source
    recurrent = Contract(64, 9, "io", (), shapes, steps)
    assert write_swift(tmp_path / "n.mlpackage", recurrent) is None


def test_each_function_is_planned_by_itself(exported: ExportReport):
    listed = {
        name: json.loads(run("plan", exported.path, "--function", name, "--json").stdout)
        for name in ("decode", "prefill")
    }
    default = json.loads(run("plan", exported.path, "--json").stdout)
    assert default["ops"] == listed["decode"]["ops"] != listed["prefill"]["ops"]
    assert any(op.get("source") for op in listed["prefill"]["ops"])
    wrong = run("plan", exported.path, "--function", "encode")
    assert wrong.exit_code == 2 and "no function 'encode'" in wrong.output
