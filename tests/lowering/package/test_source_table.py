import json

import torch
from torch import nn

from frontend.source import Source
from lowering.conversion.converter import convert
from lowering.package.source_table import SOURCES_KEY, SourceTable
from passes import optimize_for_ane


def test_lookup_takes_the_longest_name():
    table = SourceTable({"add": Source("a"), "add_1": Source("b"), "add_1_mean": Source("c")})
    assert table.lookup("add_1_cast_fp16").module == "b"
    assert table.lookup("add_1_mean").module == "c"
    assert table.lookup("add_12").module == "a"
    assert table.lookup("address") == Source()


def test_round_trip():
    table = SourceTable({"conv": Source("block.0", "m.py:3 self.q(x)", ("linear_to_conv1x1",))})
    assert SourceTable.from_metadata({SOURCES_KEY: table.to_metadata()}) == table
    assert SourceTable.from_metadata({}) == SourceTable()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        scores = torch.cosine_similarity(x, self.proj(x), dim=-1)  # several MIL ops, one node
        return self.norm(x) * scores[..., None]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_every_op_of_a_package_has_its_source():
    mlmodel = convert(Net(), (torch.randn(1, 4, 8),), skip_model_load=True)
    table = SourceTable.from_metadata(mlmodel.user_defined_metadata)
    operations = mlmodel._mil_program.functions["main"].operations
    found = {op.name: table.lookup(op.name) for op in operations if op.op_type != "const"}
    linears = [source for name, source in found.items() if name.startswith("linear")]
    assert [source.module for source in linears] == ["blocks.0.proj", "blocks.1.proj"]
    norms = [op for op in operations if op.op_type == "layer_norm"]
    assert [table.lookup(op.name).module for op in norms] == ["blocks.0.norm", "blocks.1.norm"]
    unknown = [name for name, source in found.items() if not source.line]
    # Casts at the boundary belong to no line of the user's.
    assert all("cast" in name for name in unknown), unknown
    lines = {source.line for source in found.values()}
    assert any("cosine_similarity" in line for line in lines)


def test_rewritten_ops_name_their_passes():
    optimized = optimize_for_ane(Net(), (torch.randn(1, 4, 8),))
    mlmodel = convert(optimized, skip_model_load=True)
    metadata = mlmodel.user_defined_metadata
    table = SourceTable.from_metadata(metadata)
    convs = [
        table.lookup(op.name)
        for op in mlmodel._mil_program.functions["main"].operations
        if op.op_type == "conv"
    ]
    assert convs and all("linear_to_conv1x1" in source.passes for source in convs)
    assert {source.module for source in convs} == {"blocks.0.proj", "blocks.1.proj"}
    counts = json.loads(metadata["com.ane-passes.passes"])
    by_name = {entry["name"]: entry for entry in counts}
    assert by_name["linear_to_conv1x1"]["rewrites"] >= 2
    assert len(json.loads(metadata["com.ane-passes.pipeline"])) == len(counts)
    assert metadata["com.ane-passes.version"]
    assert "com.github.apple.coremltools.conversion_date" not in metadata
