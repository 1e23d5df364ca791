"""Native attention with grouped keys: the heads of a group are queries of one head."""

from __future__ import annotations

import pytest
import torch

from frontend.capturing import capture
from frontend.program import runnable
from passes.pipeline import run
from passes.split_attention import SplitAttention

aten = torch.ops.aten


class _Grouped(torch.nn.Module):
    def forward(self, q, k, v, mask):
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(q, k, v, mask, enable_gqa=True)


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("mask_rows", [1, 3])
def test_native_groups_are_queries_of_one_head(queries, mask_rows):
    if mask_rows > queries:
        mask_rows = 1
    q, k, v = torch.randn(1, 6, queries, 8), torch.randn(1, 2, 16, 8), torch.randn(1, 2, 16, 4)
    inputs = (q, k, v, torch.randn(1, 1, mask_rows, 16))
    program, _ = run(capture(_Grouped(), inputs), (SplitAttention("native"),))
    (attention,) = program.graph.find_nodes(
        op="call_function", target=aten.scaled_dot_product_attention.default
    )
    assert attention.args[0].meta["val"].shape == (1, 2, 3 * queries, 8)
    assert not program.graph.find_nodes(op="call_function", target=aten.split_with_sizes.default)
    (found,) = runnable(program)(*inputs)
    torch.testing.assert_close(found, _Grouped()(*inputs), rtol=1e-5, atol=1e-6)
