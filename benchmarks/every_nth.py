"""A pytest plugin that runs a stated part of the tests: ``-p benchmarks.every_nth --every 5``.

Of the tests in the order in which they are collected, the first and every fifth after it run; so
every file with five tests or more has its part.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--every``."""
    parser.addoption("--every", type=int, default=1, help="run one of so many tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the others."""
    step = config.getoption("--every")
    chosen = items[::step]
    config.hook.pytest_deselected(items=[item for n, item in enumerate(items) if n % step])
    items[:] = chosen
