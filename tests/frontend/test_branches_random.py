"""Random branch programs, nested, with early return, loops and buffers, against eager.

Programs are drawn as source text, so that a failure prints something one can read and run.
"""

from __future__ import annotations

import linecache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frontend.branches import BranchError
from tests.frontend.branch_harness import (
    assert_same,
    compare,
    export,
    function_module,
    random_cases,
)

CASES = random_cases((2, 3), n=12)
BUFFER = torch.tensor([0.5, -1.0, 0.25])

_values = st.sampled_from(
    [
        "x * 2",
        "x - 1",
        "x.neg()",
        "y + x",
        "y * 0.5",
        "(x - y).relu()",
        "y + self.buf",
        "x / (y - y)",  # Inf and NaN
        "torch.cat([y[:1], x[1:]])",
        "y.clone().masked_fill_(x > 0, 1.0)",
        "self.buf.expand(2, 3)",
        "y",
        "x",
    ]
)
_tests = st.sampled_from(
    [
        "x.sum() > 0",
        "y.sum() > 0.5",
        "x[0, 0] > y[1, 1]",
        "(y > x).any()",
        "self.buf.sum() > 0",
        "(x > 0).sum()",
        "torch.equal(x, y)",
        "c",
    ]
)
_writes = st.sampled_from(
    [
        "self.buf.add_(x[0])",
        "self.buf[1] = y[0, 0]",
        "self.buf = self.buf * 0.5 + x[1]",
        "self.buf.copy_(y[1])",
        "x.mul_(0.5)",
        "y = y.clone().add_(self.buf)",
        "c = x.mean() > self.buf[0]",
        "self.buf.detach()[:2].neg_()",
    ]
)


@st.composite
def _conditions(draw) -> str:
    kind = draw(st.integers(0, 5))
    first = draw(_tests)
    if kind == 0:
        return f"not {first}"
    if kind == 1:
        return f"({first}) and ({draw(_tests)})"
    if kind == 2:
        return f"({first}) or not ({draw(_tests)})"
    return first


@st.composite
def _blocks(draw, depth: int) -> list[str]:
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 2))):
        lines += draw(_statements(depth))
    return lines


@st.composite
def _statements(draw, depth: int) -> list[str]:
    kind = draw(st.integers(0, 9 if depth else 3))
    if kind <= 2:
        return [f"y = {draw(_values)}"]
    if kind == 3:
        return [draw(_writes)]
    body = [f"    {line}" for line in draw(_blocks(depth - 1))]
    if kind == 4:
        return [f"y = {draw(_values)} if {draw(_conditions())} else {draw(_values)}"]
    if kind == 5:
        return [f"if {draw(_conditions())}:", *body, f"    return {draw(_values)}, y * 1"]
    if kind == 6:
        return [
            "for row in x:",
            "    if row.sum() > 1:",
            "        break",
            f"    y = {draw(_values)}",
        ]
    if kind == 7:
        return [f"if {draw(_conditions())}:", *body]
    other = [f"    {line}" for line in draw(_blocks(depth - 1))]
    if kind == 8:
        return [f"if {draw(_conditions())}:", *body, "else:", *other]
    return [
        f"if {draw(_conditions())}:",
        *body,
        f"elif {draw(_conditions())}:",
        *other,
        "else:",
        f"    y = {draw(_values)}",
    ]


@st.composite
def programs(draw) -> str:
    lines = ["y = x + 1", "c = x[0, 1] > 0", *draw(_blocks(2)), f"return {draw(_values)}, y * 1"]
    return "\n".join(["def forward(self, x):", *(f"    {line}" for line in lines)])


def build(source: str):
    name = f"<program {hash(source)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope: dict[str, Any] = {"torch": torch}
    exec(compile(source, name, "exec"), scope)
    return function_module(scope["forward"], buf=BUFFER.clone())


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_random_programs(source):
    try:
        assert_same(build(source), CASES, max_paths=16)
    except BranchError as error:
        # The only thing these programs may be refused for is their number of paths.
        assert "more than 16 paths" in error.message, error


def test_a_wrong_merge_is_noticed():
    source = "def forward(self, x):\n    return (x if self.buf.sum() > x.sum() else x * 2), x"
    program = export(build(source), *CASES[0])
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.where.self):
        node.args = (node.args[0], node.args[2], node.args[1])
    with pytest.raises(AssertionError):
        for case in CASES:
            compare(program.module()(*case), build(source)(*case))
