#!/usr/bin/env bash
# coremltools 9.0's palettize_weights with per_grouped_channel and enable_per_channel_scale divides
# a weight by its largest magnitude per channel before it knows whether it can group it. Where the
# number of output channels is no multiple of group_size it says "Skipped this op" and keeps a dense
# weight - the divided one, with no scale beside it. The convolution computes something else.
#
# Seen with coremltools 9.0, torch 2.13.0 and scikit-learn 1.7.2 on Linux x86-64: of a convolution
# with 100 output channels, group size 20 gives a palette; group size 16 leaves a `const` that
# differs from the weight by a factor per input channel.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "coremltools==9.0" "numpy<2.4" "scikit-learn==1.7.2"
cat > "$folder/divided.py" <<'PY'
from importlib.metadata import version

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import torch

torch.manual_seed(0)
model = torch.nn.Conv2d(40, 100, 1, bias=False)
x = torch.randn(1, 40, 8, 8)
made = ct.convert(
    torch.jit.trace(model, x),
    inputs=[ct.TensorType(name="x", shape=x.shape)],
    compute_precision=ct.precision.FLOAT32,
    minimum_deployment_target=ct.target.iOS18,
    skip_model_load=True,
)
source = model.weight.detach().numpy()


def weight(package):
    (conv,) = package._mil_program.functions["main"].find_ops(op_type="conv")
    return conv.weight


def palettized(group):
    config = cto.OpPalettizerConfig(
        nbits=4,
        mode="kmeans",
        granularity="per_grouped_channel",
        group_size=group,
        enable_per_channel_scale=True,
        weight_threshold=0,
    )
    return weight(cto.palettize_weights(made, cto.OptimizationConfig(global_config=config)))


for name in ("coremltools", "torch", "scikit-learn"):
    print(name, version(name))
grouped, skipped = palettized(20), palettized(16)
ratio = (source / skipped.val).reshape(100, 40)
print("group size 20:", grouped.op.op_type, "- group size 16:", skipped.op.op_type)
print("source / skipped weight, two rows of four:", ratio[:2, :4].round(4).tolist())
assert grouped.op.op_type.startswith("constexpr")
assert skipped.op.op_type == "const"
assert not np.allclose(skipped.val, source)
by_row, by_column = ratio.std(axis=1).max(), ratio.std(axis=0).max()
print("spread of the ratio within a row, within a column:", by_row, by_column)
assert min(by_row, by_column) < 1e-4, "the weight is not the source divided by a scale"
PY
"$folder/venv/bin/python" "$folder/divided.py"
