#!/usr/bin/env bash
# torch 2.13.0: a Sequential that begins with an in-place layer exports, and after
# run_decompositions its program cannot be made a module any more. The placeholder is named
# `input`, as forward calls it; the copy of the graph that module() edits renames it, since it is a
# name of Python's own, and the written input is then looked for under its old name.
#
# Seen with torch 2.13.0: RuntimeError "Could not find input in either buffer or input nodes"; the
# same layers with an argument called `x` work, and so does the program before run_decompositions.
# Exits with 1 once that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet "torch==2.13.0" "numpy==2.3.5"

"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
from torch import nn


class Named(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers(x)


def outcome(model, decomposed):
    program = torch.export.export(model, (torch.randn(2, 4),))
    program = program.run_decompositions() if decomposed else program
    try:
        program.module()(torch.randn(2, 4))
    except RuntimeError as error:
        return str(error)
    return "runs"


layers = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)).eval()
found = {
    "Sequential, exported": outcome(layers, False),
    "Sequential, decomposed": outcome(layers, True),
    "argument x, decomposed": outcome(Named(layers), True),
}
print("torch", torch.__version__)
for what, result in found.items():
    print(f"{what}: {result}")
wanted = ["runs", "Could not find input in either buffer or input nodes", "runs"]
if list(found.values()) != wanted:
    sys.exit("changed")
PYTHON
