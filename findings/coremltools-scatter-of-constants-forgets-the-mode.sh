#!/usr/bin/env bash
# coremltools 9.0 computes `scatter_along_axis` of constants at conversion as if its mode were
# "update": torch's `scatter_add` with fixed places, as a graph's layer counts its neighbours,
# becomes ones where places repeat, without a warning.
#
# Seen with coremltools 9.0 and torch 2.13.0 on Linux x86-64: four edges that end in nodes 0, 0, 0
# and 2 give torch the counts 3, 0, 1, and the converted program the constants 1, 0, 1.
# `value_inference` of the operator (ops/defs/iOS15/scatter_gather.py) calls np.put_along_axis and
# does not read `mode`. With a place that is an input, the operator stays and its mode is "add".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "coremltools==9.0" "numpy==2.3.5"
cat > "$folder/counts.py" <<'PY'
from importlib.metadata import version

import coremltools as ct
import torch


class Counts(torch.nn.Module):
    """How many edges end in each node."""

    def __init__(self):
        super().__init__()
        self.register_buffer("ends", torch.tensor([0, 0, 0, 2]))

    def forward(self, x):
        return x + torch.zeros(3).scatter_add(0, self.ends, torch.ones(4))


x = torch.zeros(3)
model = Counts().eval()
made = ct.convert(
    torch.jit.trace(model, (x,)),
    inputs=[ct.TensorType(name="x", shape=(3,))],
    convert_to="milinternal",
    compute_precision=ct.precision.FLOAT32,
    minimum_deployment_target=ct.target.iOS17,
)
ops = made.functions["main"].operations
(add,) = [op for op in ops if op.op_type == "add"]
constant = add.y.val if add.y.val is not None else add.x.val
kinds = sorted({op.op_type for op in ops} - {"const"})
print(f"coremltools {version('coremltools')}, torch {version('torch')}")
print(f"torch: {model(x).tolist()}; the program adds {constant.tolist()}; operators: {kinds}")
assert model(x).tolist() == [3.0, 0.0, 1.0]
assert constant.tolist() == [1.0, 0.0, 1.0], "coremltools computes the sum now"
PY
"$folder/venv/bin/python" "$folder/counts.py" 2>/dev/null
