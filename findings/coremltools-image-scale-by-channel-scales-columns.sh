#!/usr/bin/env bash
# `ct.ImageType(scale=[r, g, b])` is no scale by channel in coremltools 9.0: the list becomes a
# constant of shape (3,), which multiplies the picture (1, 3, height, width) along its last axis.
# Pictures of any width but 1 and 3 fail with a message about shapes; a picture three pixels wide
# is converted, and its columns are scaled. `bias=[r, g, b]` in the same call is added by channel.
#
# Seen with coremltools 9.0 and torch 2.13.0 on Linux x86-64: width 3 gives `mul` by a constant of
# shape (3,) and `add` of one of shape (1, 3, 1, 1); width 4 raises "Incompatible dim 3 in shapes
# (1, 3, 4, 4) vs. (1, 1, 1, 3)".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "coremltools==9.0" "numpy<2.4"
cat > "$folder/scales.py" <<'PY'
from importlib.metadata import version

import coremltools as ct
import torch


class Doubled(torch.nn.Module):
    def forward(self, x):
        return x * 2


def constants(width):
    shape = (1, 3, 4, width)
    picture = ct.ImageType(name="x", shape=shape, scale=[0.5, 0.25, 0.125], bias=[1.0, 2.0, 3.0])
    made = ct.convert(
        torch.jit.trace(Doubled(), torch.ones(shape)),
        inputs=[picture],
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    function = made._mil_program.functions["main"]
    shapes = {}
    for op in function.operations:
        if op.op_type in ("mul", "add"):
            for var in (op.x, op.y):
                if var.val is not None and var.val.size == 3:
                    shapes[op.op_type] = var.val.shape
    return shapes


for name in ("coremltools", "torch"):
    print(name, version(name))
narrow = constants(3)
print("width 3:", narrow)
try:
    constants(4)
    wide = "converted"
except ValueError as error:
    wide = str(error)
print("width 4:", wide)
assert narrow["mul"] == (3,), "the scale has another shape now"
assert "Incompatible dim 3" in wide
assert narrow["add"] == (1, 3, 1, 1), "the bias has another shape now"
PY
"$folder/venv/bin/python" "$folder/scales.py"
