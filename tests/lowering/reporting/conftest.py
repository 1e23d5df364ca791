"""One package and its report, for all tests of reports."""

from __future__ import annotations

import pytest

import passes
from frontend.model_call import ModelCall
from lowering import convert, save
from lowering.reporting import collect
from tests.lowering.reporting.report_models import encoder


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    model, args = encoder()
    path = tmp_path_factory.mktemp("report") / "encoder.mlpackage"
    return save(convert(passes.optimize_for_ane(model, args)), path)


@pytest.fixture(scope="session")
def report(package):
    model, args = encoder()
    return collect(package, ModelCall("encoder", model, args))


@pytest.fixture(scope="session")
def alone(package):
    """The report without the original."""
    return collect(package)
