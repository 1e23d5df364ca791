#!/usr/bin/env bash
# coremltools 9.0 writes a package's Manifest.json when its ModelPackage object is destroyed, not
# when the last item is added. ct.convert relies on the object going out of scope at the return of
# an inner function and reads the package right after it. Whoever holds that function's frame
# meanwhile, as sampling profilers do (the one in Dask's workers is on by default), keeps the object
# alive, and the conversion of a sound model fails: "A valid manifest does not exist at path".
# In Dask's workers that was about one conversion in 40.
#
# Seen with coremltools 9.0 and torch 2.13.0 on Linux x86-64. Shown here without chance: with the
# object alive there is no manifest, after `del` there is; and a conversion fails while a profile
# function keeps the one frame, and succeeds without it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "coremltools==9.0" "numpy<2.4"
cat > "$folder/manifest.py" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

import coremltools as ct
import torch
from coremltools.libmodelpackage import ModelPackage
from coremltools.models import utils

here = Path(mkdtemp(dir=Path(__file__).parent))
(here / "model.mlmodel").write_bytes(b"any")
package = ModelPackage(str(here / "a.mlpackage"))
package.setRootModel(str(here / "model.mlmodel"), "model.mlmodel", "me", "a model")
alive = (here / "a.mlpackage" / "Manifest.json").exists()
del package
gone = (here / "a.mlpackage" / "Manifest.json").exists()

x = torch.ones(1, 4)
traced = torch.jit.trace(torch.nn.ReLU(), x)
held = []


def hold(frame, event, argument):
    if event == "call" and frame.f_code is utils._create_mlpackage.__code__:
        held.append(frame)


def converted():
    try:
        ct.convert(traced, inputs=[ct.TensorType(shape=x.shape)], skip_model_load=True)
        return "converted"
    except RuntimeError as error:
        return str(error).split(" at path")[0]


plain = converted()
sys.setprofile(hold)
profiled = converted()
sys.setprofile(None)
for name in ("coremltools", "torch"):
    print(name, version(name))
print("manifest while the object lives:", alive, "- after it:", gone)
print("without a held frame:", plain, "- with one:", profiled)
assert (alive, gone) == (False, True), "the manifest is written at another time"
assert plain == "converted" and held
assert profiled == "A valid manifest does not exist", "a held frame does no harm any more"
PY
"$folder/venv/bin/python" "$folder/manifest.py"
