#!/usr/bin/env bash
# coreai-torch 0.4.3 lowers `torch.add(x, y, alpha=0.1)` and `torch.sub(x, y, alpha=2)` as if alpha
# were 1, without a warning: `mean.mul_(0.9).add_(x, alpha=0.1)`, the usual running average, becomes
# 0.9 * mean + x.
#
# Seen with coreai-torch 0.4.3, coreai-core 1.0.0b3 and torch 2.13.0 on Linux x86-64 (Apple's own
# runtime, CPU), float32: for x = 1, y = 10 torch gives 2.0 and -19.0, the converted program 11.0
# and -9.0. torch.export keeps alpha as a keyword of aten.add.Tensor and aten.sub.Tensor; torch's
# default table of decompositions does not take it apart. `torch.addmm(..., beta=2, alpha=3)` comes
# out right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "coreai-torch==0.4.3" "coreai-core==1.0.0b3"
cat > "$folder/alpha.py" <<'PY'
import asyncio
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

import coreai_torch
import torch
from coreai.authoring import AIModelAsset
from coreai.runtime import NDArray


class Sums(torch.nn.Module):
    def forward(self, x, y):
        return torch.add(x, y, alpha=0.1), torch.sub(x, y, alpha=2)


x, y = torch.ones(2), torch.full((2,), 10.0)
program = torch.export.export(Sums(), (x, y)).run_decompositions(coreai_torch.get_decomp_table())
converter = coreai_torch.TorchConverter(mode=coreai_torch.TorchConverter.Mode.RELEASE)
names = ["sum", "difference"]
made = converter.add_exported_program(program, output_names=names).to_coreai()
path = Path(mkdtemp(dir=Path(__file__).parent)) / "sums.aimodel"
made.save_asset(path)


async def run():
    async with AIModelAsset.load(path).executable() as model:
        function = model.load_function("main")
        found = await function({"x": NDArray(x.numpy()), "y": NDArray(y.numpy())})
        return [found[name].numpy().tolist() for name in names]


for package in ("torch", "coreai-torch", "coreai-core"):
    print(package, version(package))
wanted = [value.tolist() for value in Sums()(x, y)]
found = asyncio.run(run())
print("torch  ", wanted)
print("Core AI", found)
assert wanted == [[2.0, 2.0], [-19.0, -19.0]], wanted
assert found == [[11.0, 11.0], [-9.0, -9.0]], "alpha is no longer dropped"
PY
"$folder/venv/bin/python" "$folder/alpha.py"
