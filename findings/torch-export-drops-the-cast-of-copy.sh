#!/usr/bin/env bash
# torch 2.13.0: after run_decompositions an exported program writes a buffer without the cast that
# copy_ makes. A float copied into an int32 buffer keeps its fraction for the rest of the program.
#
# Seen with torch 2.13.0: eager and torch.compile's capture give 2.0 for the input 2.7, the exported
# program too, and the same program after run_decompositions({}) gives 2.7.
# Exits with 1 once both agree.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet "torch==2.13.0" "numpy==2.3.5"

"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import copy
import sys

import torch


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1, dtype=torch.int32))

    def forward(self, x):
        self.count.copy_(x)
        return self.count * 1.0


x = torch.tensor([2.7])
eager = copy.deepcopy(Model())(x).item()
program = torch.export.export(Model(), (x,))
exported = program.module()(x).item()
decomposed = program.run_decompositions({}).module()(x).item()
print("torch", torch.__version__)
print(f"eager {eager}, exported {exported}, after run_decompositions {decomposed:.6g}")
if not (eager == 2.0 and abs(decomposed - 2.7) < 1e-6):
    sys.exit("changed: the program gives what eager mode gives")
PYTHON
