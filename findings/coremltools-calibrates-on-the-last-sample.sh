#!/usr/bin/env bash
# coremltools 9.0: calibrating activations on several samples keeps the range of the last one alone.
#
# `coremltools.optimize.coreml.linear_quantize_activations` takes a list of samples, and documents it
# as "Data used to characterize statistics of the activation values". Both functions that note the
# range of a value, for inputs and for values inside, store the range of the sample at hand and then
# compare it with what is stored, which by then is itself. So after samples in [-10, 10] and
# [-1, 1] the range is [-1, 1]; the scale is a tenth of what the first sample needs, and its
# activations saturate. In the other order the range is right: the result depends on the order.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "coremltools==9.0" "numpy==2.3.5"
"$folder/venv/bin/python" - <<'PYTHON'
import collections
import platform

import coremltools
import numpy as np
from coremltools.optimize.coreml.experimental import _post_training_quantization as calibration
from coremltools.optimize.coreml.experimental._model_debugger import ModelDebugger

print("python", platform.python_version(), "coremltools", coremltools.__version__)
wide = np.linspace(-10, 10, 101, dtype=np.float32)
narrow = np.linspace(-1, 1, 101, dtype=np.float32)


def value_range(samples, note):
    stats = collections.defaultdict(dict)
    for sample in samples:
        note(sample, stats)
    return tuple(float(stats["x"][key]) for key in ("rmin", "rmax"))


notes = {
    "value inside": lambda x, stats: ModelDebugger.record_intermediate_output(x, "x", stats),
    "input": lambda x, stats: calibration._update_tensor_range("x", x, stats),
}
for kind, note in notes.items():
    last_narrow, last_wide = value_range([wide, narrow], note), value_range([narrow, wide], note)
    print(f"{kind}: samples to 10 and then to 1 give the range {last_narrow}, "
          f"the same two in the other order {last_wide}")
    assert last_narrow == (-1.0, 1.0) and last_wide == (-10.0, 10.0), "behaviour has changed"
PYTHON
# Output seen:
#   python 3.11.7 coremltools 9.0
#   value inside: samples to 10 and then to 1 give the range (-1.0, 1.0), the same two in the other order (-10.0, 10.0)
#   input: samples to 10 and then to 1 give the range (-1.0, 1.0), the same two in the other order (-10.0, 10.0)
