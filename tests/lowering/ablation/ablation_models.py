"""What the tests of ablations share: small models, and tasks that can be told to die."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frontend.model_call import ModelCall
from lowering.ablation.digest import Digester
from lowering.ablation.engines import Engine
from lowering.ablation.tasks import StoredProgram, Task


class Mlp(nn.Module):
    """(1, 4, 8) to (1, 4, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def mlp() -> ModelCall:
    torch.manual_seed(0)
    return ModelCall("mlp", Mlp().eval(), (torch.randn(1, 4, 8),))


def attention_layer() -> ModelCall:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return ModelCall("layer", model.eval(), (torch.randn(1, 6, 16),))


def source_in(folder: Path) -> StoredProgram:
    """A saved program."""
    program = torch.export.export(nn.Identity(), (torch.zeros(1),)).run_decompositions({})
    path = folder / "program.pt2"
    torch.export.save(program, path)
    return StoredProgram(Digester().program(program), str(path))


@dataclass(frozen=True)
class Told:
    """A task that dies as often as it is told, counted by files in ``folder``."""

    source: StoredProgram
    label: str
    folder: str
    deaths: int = 0

    @property
    def key(self) -> str:
        return self.label

    def run(self, subject) -> dict[str, Any]:
        runs = len(list(Path(self.folder).glob(f"{self.label}.*")))
        Path(self.folder, f"{self.label}.{runs}").touch()
        if runs < self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"label": self.label}


@dataclass(frozen=True)
class Littering:
    """A task that leaves a temporary folder, whose path it adds to ``left.txt``."""

    source: StoredProgram
    label: str
    folder: str
    dies: bool

    @property
    def key(self) -> str:
        return self.label

    def run(self, subject) -> dict[str, Any]:
        with Path(self.folder, "left.txt").open("a") as file:
            file.write(tempfile.mkdtemp(suffix=".mlpackage") + "\n")
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"label": self.label}


def told(folder: Path, **deaths: int) -> list[Told]:
    source = source_in(folder)
    return [Told(source, label, str(folder), count) for label, count in deaths.items()]


def results(engine: Engine, tasks: Sequence[Task]) -> dict[str, Any]:
    """Each task's result by its label."""
    with engine as running:
        return {task.label: result for task, result in running.run(tasks)}
