"""What the installed torch takes apart is what was seen when it was tried."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise

import pytest
import torch

from benchmarks import torch_release
from frontend.preserve import preserved_ops
from frontend.releases import TRIED, UntriedReleaseWarning, warn_of_untried

# Captures take a quarter of a second each: every tenth here, all by the benchmark.
STEP = 10


def test_each_tried_release_has_a_snapshot():
    assert tuple(torch_release.stored()) == TRIED


def test_this_release_is_as_its_snapshot():
    release = ".".join(torch.__version__.split(".")[:2])
    path = torch_release.stored().get(release)
    if path is None:
        pytest.skip(f"torch {release} has no snapshot: python -m benchmarks.torch_release --write")
    known = json.loads(path.read_text())
    names = sorted(known.keys() - {torch_release.TABLE})[::STEP]
    found = torch_release.snapshot(only=names)
    assert len(names) > 15
    assert torch_release.differences(known, found) == []


def test_releases_differ_where_we_keep_operators_whole():
    snapshots = [json.loads(path.read_text()) for path in torch_release.stored().values()]
    assert [torch_release.differences(old, new) for old, new in pairwise(snapshots)] == [
        [
            "aten.linalg_vector_norm.default is taken apart by default",
            "aten.qr.default is not taken apart by default any more",
        ],
        # Of AMD's library alone: no capture on a CPU holds it.
        ["aten.miopen_batch_norm.default is taken apart by default"],
    ]
    assert "aten.linalg_vector_norm.default" in {str(op) for op in preserved_ops()}


def test_differences_are_sentences():
    old = {torch_release.TABLE: ["aten.a.default"], "f": ["aten.x.default"]}
    new = {torch_release.TABLE: ["aten.b.default"], "f": ["aten.y.default"], "g": []}
    assert torch_release.differences(old, new) == [
        "aten.b.default is taken apart by default",
        "aten.a.default is not taken apart by default any more",
        "f: aten.x.default is now aten.y.default",
    ]
    assert torch_release.differences(old, old) == []


def test_a_later_release_is_a_warning():
    with pytest.warns(UntriedReleaseWarning, match=r"torch 9\.1\.0\+cpu is newer"):
        warn_of_untried("9.1.0+cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_untried("2.13.0+cpu")
        warn_of_untried("2.14.1")
        warn_of_untried("2.15.0+cu132")
