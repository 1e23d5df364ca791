#!/usr/bin/env bash
# When coremltools 9.0 casts a program to float16, what becomes of a weight too small for float16
# depends on how many elements its tensor has: in a tensor of fewer than 400 elements it becomes
# +-2^-24, the smallest subnormal number, in one of 400 or more it becomes 0. So the same model with
# one channel more behaves otherwise: an epsilon vector that a division or a logarithm relies on
# protects 399 channels and not 400.
#
# Seen with coremltools 9.0 and torch 2.13.0 on Linux x86-64, weights of 1e-9: 5.96e-08 with 399
# elements (60 times the weight), 0 with 400. torch's own .half() gives 0 for both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "coremltools==9.0" "numpy<2.4"
cat > "$folder/tiny.py" <<'PY'
from importlib.metadata import version

import coremltools as ct
import torch


class Shifted(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.register_buffer("epsilon", torch.full((channels,), 1e-9))

    def forward(self, x):
        return x + self.epsilon


def stored(channels):
    x = torch.ones(1, channels)
    made = ct.convert(
        torch.jit.trace(Shifted(channels), x),
        inputs=[ct.TensorType(name="x", shape=x.shape)],
        compute_precision=ct.precision.FLOAT16,
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    (add,) = made._mil_program.functions["main"].find_ops(op_type="add")
    constant = next(var.val for var in (add.x, add.y) if var.val is not None)
    assert constant.dtype == "float16" and len(set(constant.flatten())) == 1
    return float(constant.flatten()[0])


for name in ("coremltools", "torch"):
    print(name, version(name))
found = {channels: stored(channels) for channels in (8, 399, 400, 1000)}
print("1e-9 in float16, by the number of channels:", found)
print("torch:", torch.tensor(1e-9).half().item())
assert found[8] == found[399] == 2.0**-24
assert found[400] == found[1000] == 0.0
assert torch.tensor(1e-9).half().item() == 0.0
PY
"$folder/venv/bin/python" "$folder/tiny.py"
