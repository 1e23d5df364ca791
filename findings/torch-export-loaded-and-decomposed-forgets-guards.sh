#!/usr/bin/env bash
# An exported program refuses sizes at which its model branches another way; saved, loaded and then
# decomposed, the same program takes them and computes the recorded branch, without a word.
#
# Seen with torch 2.13.0 on Linux x86-64 (CPU). A model that doubles unless the length is 9 is
# exported at length 10 with Dim.DYNAMIC(min=2, max=64). The program, the loaded program and the
# decomposed program each refuse length 9 ("Guard failed"). The loaded program after
# run_decompositions() has no guards left, and returns 2 x for length 9 where the model returns x.
# Its range still says 2 to 64, so a converter that reads ranges takes 9 as well. Guards are read
# from the environment of symbolic shapes whenever a program object is made; a file restores the
# text alone, and the next object made from it finds an environment without them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.3.5"
cat > "$folder/guards.py" <<'PY'
import sys

import torch
from torch.export import Dim, export, load, save


class Doubled(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[1] != 9 else x


def at_nine(program):
    try:
        return program.module()(torch.ones(1, 9)).tolist()[0][0]
    except AssertionError as error:
        return str(error)


shapes = {"x": {1: Dim.DYNAMIC(min=2, max=64)}}
program = export(Doubled(), (torch.ones(1, 10),), dynamic_shapes=shapes)
save(program, sys.argv[1])
loaded = load(sys.argv[1])
seen = {
    "model": Doubled()(torch.ones(1, 9)).tolist()[0][0],
    "exported": at_nine(program),
    "decomposed": at_nine(program.run_decompositions()),
    "loaded": at_nine(loaded),
    "loaded and decomposed": at_nine(loaded.run_decompositions()),
}
print("torch", torch.__version__)
for name, value in seen.items():
    print(f"{name} at length 9: {value}")
refused = [name for name, value in seen.items() if str(value).startswith("Guard failed")]
assert refused == ["exported", "decomposed", "loaded"], refused
assert (seen["model"], seen["loaded and decomposed"]) == (1.0, 2.0), seen
PY
"$folder/venv/bin/python" -W ignore "$folder/guards.py" "$folder/doubled.pt2"
