"""A headless Chromium, and why there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVERS = ("chromedriver",)


def reason_without() -> str:
    """Why the browser tests cannot run here; empty where they can."""
    if not any(map(shutil.which, BROWSERS)):
        return f"no browser: none of {', '.join(BROWSERS)} is on the PATH"
    if not any(map(shutil.which, DRIVERS)):
        return "no chromedriver on the PATH"
    return ""


@contextmanager
def chromium(folder: Path, *, width: int = 1300, height: int = 900) -> Iterator[Any]:
    """A driver with a new profile in ``folder``, no network services, and a console log."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    flags = ["headless", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
    flags += ["disable-background-networking", "disable-component-update"]
    flags += ["disable-dev-shm-usage", f"user-data-dir={folder}", f"window-size={width},{height}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("no-sandbox")  # Chromium's sandbox refuses root
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=Service(next(filter(None, map(shutil.which, DRIVERS))))
    )
    try:
        yield driver
    finally:
        driver.quit()
