"""README's generated blocks are found, made anew, and nothing else is touched."""

from __future__ import annotations

import click
import pytest

from benchmarks import readme

TEXT = """before
<!-- generated: python -m a -->
old
<!-- end -->
between
```python
x = 2
print(x + 1)
```
<!-- generated: output of the block above -->
<!-- end -->
```python
print(x)
```
"""


def test_blocks():
    assert [b.command for b in readme.blocks(TEXT)] == ["python -m a", readme.ABOVE]
    assert readme.blocks(TEXT)[0].body == "old\n"
    assert "old" not in readme.without_blocks(TEXT)


def test_refreshed():
    fresh = readme.refreshed(TEXT, lambda command: f"ran {command}  \n")
    bodies = [b.body for b in readme.blocks(fresh)]
    assert bodies == ["```text\nran python -m a\n```\n", "```text\n3\n```\n"]
    assert readme.without_blocks(fresh) == readme.without_blocks(TEXT)
    assert readme.refreshed(fresh, lambda command: f"ran {command}") == fresh


def test_only_leaves_the_others():
    fresh = readme.refreshed(TEXT, lambda command: "new", only="-m a")
    assert [b.body for b in readme.blocks(fresh)] == ["```text\nnew\n```\n", ""]


def test_python_blocks_share_a_namespace():
    assert [out for _, out in readme.run_python(TEXT)] == ["3\n", "2\n"]


def test_a_failing_python_block_is_an_error():
    with pytest.raises(ZeroDivisionError):
        readme.run_python("```python\n1 / 0\n```\n")


def test_run():
    assert readme.run("python -c 'print(7)'") == "7\n"


@pytest.mark.parametrize(
    "command", ["rm -rf x", "python -c 'raise SystemExit(3)'", "python -c 1/0"]
)
def test_run_refuses(command: str):
    with pytest.raises(click.ClickException):
        readme.run(command)
