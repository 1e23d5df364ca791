#!/usr/bin/env bash
# Padding a fake tensor makes its open size the number of the example, without a word: a pass over an
# exported program that computes shapes this way turns a dynamic program into one for a single length,
# in all values that share the symbol.
#
# Seen with torch 2.13.0 on Linux x86-64 (CPU): a program exported with Dim("n", min=5, max=32) from
# an example of length 9. In its own fake mode F.pad(x, (3, 2)) is 14 long, and the input, until then
# (1, 6, n), prints as (1, 6, 9). Nothing is raised or warned. Under
# torch._dispatch.python.enable_python_dispatcher(), which torch.export itself uses while it records,
# the same call gives n + 5 and leaves the input alone: without it the compiled decomposition of
# constant_pad_nd asks the sizes for numbers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.3.5"
cat > "$folder/pad.py" <<'PY'
from contextlib import nullcontext

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch.export import Dim, export
from torch.nn import functional as F


def padded(how):
    shapes = {"input": {2: Dim("n", min=5, max=32)}}
    program = export(torch.nn.ReLU(), (torch.randn(1, 6, 9),), dynamic_shapes=shapes)
    (x,) = (n.meta["val"] for n in program.graph.nodes if n.op == "placeholder")
    with x.fake_mode, how():
        y = F.pad(x, (3, 2))
    return str(y.shape[-1]), str(x.shape[-1])


print("torch", torch.__version__)
alone, dispatched = padded(nullcontext), padded(enable_python_dispatcher)
for name, (result, own) in (("fake mode alone", alone), ("Python dispatcher", dispatched)):
    print(f"{name}: padded to {result}; the input is now {own} long")
assert alone == ("14", "9"), alone
assert dispatched[0] == f"{dispatched[1]} + 5" and not dispatched[1].isdigit(), dispatched
PY
"$folder/venv/bin/python" -W ignore "$folder/pad.py"
