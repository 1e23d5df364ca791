"""Takes the picture of a report that README.md shows.

    python -m benchmarks.report_picture out/ablation/distilbert-6L.html

Needs Chromium and its driver.
"""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.browser import chromium, open_page, reason_without

PICTURE = Path(__file__).with_name("report.png")
MAX_BYTES = 200_000
_WIDTH = 1240
# Enough for a picture of flat colours; a third of the bytes of all colours.
_COLOURS = 128


def picture(page: Path, height: int) -> bytes:
    """The upper part of ``page`` as PNG, ``_WIDTH`` × ``height`` pixels."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile), width=_WIDTH) as driver:
        open_page(driver, page.absolute().as_uri())
        clip: dict[str, Any] = {"x": 0, "y": 0, "width": _WIDTH, "height": height, "scale": 1}
        shot = driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
        )
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    stream = io.BytesIO()
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


@click.command(help=__doc__)
@click.argument("page", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=PICTURE)
@click.option("--height", default=1050, show_default=True, help="How much of it, pixels.")
def main(page: Path, output: Path, height: int) -> None:
    """See the module."""
    if reason := reason_without():
        raise click.ClickException(reason)
    made = picture(page, height)
    if len(made) > MAX_BYTES:
        raise click.ClickException(f"{len(made):,} bytes; at most {MAX_BYTES:,}: lower --height")
    output.write_bytes(made)
    click.echo(f"wrote {output} ({len(made) / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
