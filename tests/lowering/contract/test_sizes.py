"""Sizes that vary: from export through the contract to a package that is verified at each."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.export import Dim

import lowering
from lowering.cli import main
from lowering.contract.names import CONTRACT
from lowering.contract.reading import contract_of
from lowering.contract.size_spec import combinations, resized

TOKENS = Dim("tokens", min=2, max=64)


class Text(nn.Module):
    """Vectors of tokens and a mask."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix = nn.Embedding(20, 16), nn.Linear(16, 16)

    def forward(self, ids, mask):
        x = self.embed(ids)
        return self.mix(x) * mask[..., None] + x.mean(1, keepdim=True)


def call(tokens=8):
    ids = torch.arange(tokens)[None] % 20
    return ids, torch.ones(1, tokens)


def exported(folder, **options):
    settings = {
        "dynamic_shapes": {"ids": {1: TOKENS}, "mask": {1: TOKENS}},
        "sizes": {"tokens": [4, 8, 32]},
        "target": "iOS18",
        "task": lowering.Embed(pool="mean", mask="mask"),
        **options,
    }
    return lowering.export(Text().eval(), call(), folder, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("sizes") / "text")


def test_a_package_is_verified_at_each_size(folder):
    package = lowering.convert(folder, skip_model_load=True)
    found = lowering.verify(package, folder)
    assert found and found.labels == ("tokens=4", "tokens=8", "tokens=32")
    for tokens in (4, 8, 32):
        ids, mask = call(tokens)
        got = lowering.predict(package, {"ids": ids.int().numpy(), "mask": mask.numpy()})
        with torch.no_grad():
            want = nn.functional.normalize(Text()(ids, mask).mean(1), dim=-1)
        torch.testing.assert_close(
            torch.from_numpy(got["embedding"]).float(), want, atol=3e-3, rtol=0
        )
    ids, mask = call(5)
    with pytest.raises(lowering.InputError):
        lowering.predict(package, {"ids": ids.int().numpy(), "mask": mask.numpy()})
    agreed = lowering.verify(package, folder, metric="cosine").agreement
    assert len(agreed.values) == 3 and agreed.passed


def test_one_size_is_a_fixed_one(tmp_path):
    folder = exported(tmp_path / "text", sizes={"tokens": [8]}, target="iOS17")
    package = lowering.convert(folder, skip_model_load=True)
    assert lowering.verify(package, folder).labels == ("tokens=8",)


def test_the_contract_says_them_and_reads_back_the_same(folder):
    text = (folder / CONTRACT).read_text()
    said = json.loads(text)
    assert said["sizes"] == [
        {"name": "tokens", "values": [4, 8, 32], "places": [["ids", 1], ["mask", 1]]}
    ]
    assert said["inputs"][0]["shape"] == [1, 8]
    contract = contract_of(text, "here")
    assert contract.to_text() == text
    assert [case["tokens"] for case in combinations(contract.sizes)] == [4, 8, 32]
    ids, mask = call()
    longer = resized({"ids": ids, "mask": mask}, contract.sizes, {"tokens": 11})
    assert longer["ids"][0].tolist() == [*range(8), 0, 1, 2] and longer["mask"].shape == (1, 11)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": None}, "'tokens' varies, and no sizes are listed"),
        ({"sizes": {"tokens": []}}, "no sizes are listed"),
        ({"sizes": {"tokens": [0, 8]}}, "not sizes from 1 on"),
        ({"sizes": {"words": [8], "tokens": [8]}}, "'words' is no size that varies"),
        ({"sizes": {"tokens": range(2, 200)}}, "at most 128"),
        ({"sizes": {"tokens": [4, 16]}}, "the example has 8"),
        ({"sizes": {"tokens": [8, 65]}}, "2 to 64"),
        ({"dynamic_shapes": None}, "is no size that varies"),
    ],
)
def test_sizes_that_do_not_fit(options, words, tmp_path):
    with pytest.raises(lowering.errors.AnePassesError, match=words):
        exported(tmp_path / "text", **options)
    assert not list(tmp_path.iterdir())


BROKEN = [
    ("values", [8, 4], "ascending"),
    ("values", [], "ascending"),
    ("values", [4, 32], "the example has 8"),
    ("places", [["ids", 1]], "varies, and no size says how"),
    ("places", [["ids", 0], ["mask", 1]], "none of"),
    ("places", [["words", 1]], "no axis 1 of input 'words'"),
    ("places", [["ids", "1"]], "not a list of"),
    ("name", "a b", "of the form"),
]


@pytest.mark.parametrize(("key", "value", "words"), BROKEN)
def test_broken_sizes_in_a_contract(key, value, words, folder, tmp_path):
    said = json.loads((folder / CONTRACT).read_text())
    said["sizes"][0][key] = value
    copied = tmp_path / "text"
    copied.mkdir()
    (copied / CONTRACT).write_text(json.dumps(said))
    (copied / "model.pt2").symlink_to(folder / "model.pt2")
    with pytest.raises(lowering.ContractError, match=words):
        lowering.open_folder(copied)


def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sized_model.py").write_text(
        "from tests.lowering.contract.test_sizes import TOKENS, Text, call\n"
        "def text():\n"
        "    shapes = {'ids': {1: TOKENS}, 'mask': {1: TOKENS}}\n"
        "    return Text(), call(), {}, shapes\n"
    )
    words = ["export", "sized_model.py:text", "-o", "text", "--deployment-target", "iOS18"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and "no sizes are listed" in result.output
    result = CliRunner().invoke(main, [*words, "--sizes", "tokens=4,8"])
    assert result.exit_code == 0, result.output
    assert "takes    ids [1, tokens]" in result.output and "tokens    4, 8" in result.output
