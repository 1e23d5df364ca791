"""Packages that several tests look at, exported once."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from lowering.generation.export import ExportReport, export_decoder
from tests.lowering.generation.families import qwen3


@pytest.fixture(scope="session")
def model() -> nn.Module:
    return qwen3()


@pytest.fixture(scope="session")
def exported(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    path: Path = tmp_path_factory.mktemp("generation") / "qwen3.mlpackage"
    return export_decoder(model, path, context=48, prefill=8, decode=(1, 4))
