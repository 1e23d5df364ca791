"""The picture of a report: as large as asked for, in few bytes, of the page's own colours."""

from __future__ import annotations

import io

import pytest
from click.testing import CliRunner

from benchmarks.browser import reason_without
from benchmarks.report_picture import MAX_BYTES, PICTURE, main

REASON = reason_without()
PAGE = "<!doctype html><html data-ready='true'><body style='background: #123456'>text</body></html>"


def test_the_pictures_size_in_the_repository():
    data = PICTURE.read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) <= MAX_BYTES


@pytest.mark.skipif(bool(REASON), reason=REASON or "there is a browser")
def test_a_page_is_pictured(tmp_path):
    from PIL import Image

    page, path = tmp_path / "page.html", tmp_path / "picture.png"
    page.write_text(PAGE)
    arguments = [str(page), "-o", str(path), "--height", "300"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    assert image.size == (1240, 300)
    assert image.getpixel((1200, 290)) == (0x12, 0x34, 0x56)


def test_a_missing_page_is_refused(tmp_path):
    assert CliRunner().invoke(main, [str(tmp_path / "missing.html")]).exit_code == 2
