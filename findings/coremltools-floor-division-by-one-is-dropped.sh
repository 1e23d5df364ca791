#!/usr/bin/env bash
# coremltools 9.0 takes a division by one for an operator without effect, floor division included:
# of floats, `x // 1` becomes x, `torch.div(x, ones, rounding_mode="floor")` likewise, and `x % 1`,
# which is lowered as x - (x // 1), becomes zero. Nothing is said. Fractional parts, phases and
# grid cells are written this way.
#
# Seen with coremltools 9.0 and torch 2.13.0 on Linux x86-64, each followed by a square root: the
# converted programs hold the lone `sqrt` for the first two, and for the third a `sub` of the input
# from itself before it. A floor division by 2 is kept as `floor_div`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "coremltools==9.0" "numpy<2.4"
cat > "$folder/floors.py" <<'PY'
from importlib.metadata import version

import coremltools as ct
import torch


class Floor(torch.nn.Module):
    def forward(self, x):
        return torch.sqrt(x // 1)


class FloorOfTensors(torch.nn.Module):
    def forward(self, x):
        return torch.sqrt(torch.div(x, torch.ones(1, 2), rounding_mode="floor"))


class Remainder(torch.nn.Module):
    def forward(self, x):
        return torch.sqrt(x % 1)


class ByTwo(torch.nn.Module):
    def forward(self, x):
        return torch.sqrt(x // 2)


def operators(model):
    x = torch.full((1, 2), 1.75)
    traced = torch.jit.trace(model, x)
    made = ct.convert(
        traced,
        inputs=[ct.TensorType(name="x", shape=x.shape)],
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    function = made._mil_program.functions["main"]
    (source,) = function.inputs.values()
    found = [op for op in function.operations if op.op_type != "const"]
    kinds = [op.op_type for op in found]
    of_itself = found[0].op_type == "sub" and found[0].x is found[0].y is source
    return kinds, of_itself


for name in ("coremltools", "torch"):
    print(name, version(name))
seen = {model.__name__: operators(model()) for model in (Floor, FloorOfTensors, Remainder, ByTwo)}
for name, (kinds, of_itself) in seen.items():
    print(f"{name}: converted to {kinds}{', of which the first is x - x' if of_itself else ''}")
assert seen["Floor"] == (["sqrt"], False)
assert seen["FloorOfTensors"] == (["sqrt"], False)
assert seen["Remainder"] == (["sub", "sqrt"], True)
assert seen["ByTwo"] == (["floor_div", "sqrt"], False)
PY
"$folder/venv/bin/python" "$folder/floors.py"
