#!/usr/bin/env bash
# torch.export records one side of a condition on a size given as a hint (`Dim.DYNAMIC`), keeps the
# condition as a guard, and the exported module refuses other sizes: "Guard failed". coremltools 9.0
# takes the program without its guards and with the hint's whole range, so that the package computes
# the example's side where torch refuses. Nothing is said. A named Dim is refused at the export.
#
# Seen with coremltools 9.0 and torch 2.13.0 on Linux x86-64: a model that doubles inputs of odd
# length and triples even ones, exported at length 9 for lengths 4 to 32. The module raises at 8,
# also after run_decompositions; the converted program multiplies by 2 alone, and its description
# allows 4 to 32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "coremltools==9.0" "numpy<2.4"
cat > "$folder/sizes.py" <<'PY'
from importlib.metadata import version

import coremltools as ct
import torch
from torch.export import Dim


class Parity(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[1] % 2 else x * 3


model = Parity()
hint = Dim.DYNAMIC(min=4, max=32)
program = torch.export.export(model, (torch.ones(1, 9),), dynamic_shapes=({1: hint},))
program = program.run_decompositions({})
try:
    program.module()(torch.ones(1, 8))
    refused = ""
except AssertionError as error:
    refused = str(error).splitlines()[0]
made = ct.convert(program, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)
described = made.get_spec().description.input[0].type.multiArrayType.shapeRange.sizeRanges[1]
allowed = described.lowerBound, described.upperBound
operations = made._mil_program.functions["main"].operations
products = [op for op in operations if op.op_type == "mul"]
factors = [float(op.y.val) for op in products]

for name in ("coremltools", "torch"):
    print(name, version(name))
print("the exported module at length 8:", refused)
print("the converted program takes lengths", allowed, "and multiplies by", factors)
assert refused.startswith("Guard failed")
assert allowed == (4, 32) and factors == [2.0]
PY
"$folder/venv/bin/python" "$folder/sizes.py"
