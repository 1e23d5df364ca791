"""A headless Chromium, and why there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVERS = ("chromedriver",)


def reason_without() -> str:
    """Why no browser can be opened here; empty where one can."""
    if not any(map(shutil.which, BROWSERS)):
        return f"no browser: none of {', '.join(BROWSERS)} is on the PATH"
    if not any(map(shutil.which, DRIVERS)):
        return "no chromedriver on the PATH"
    return ""


@contextmanager
def chromium(profile: Path, *, width: int = 1300, height: int = 900) -> Iterator[Any]:
    """A selenium driver that keeps a console log and uses no network services.

    Args:
        profile: an empty folder.
        width: of the window, CSS pixels.
        height: of the window, CSS pixels.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    flags = ["headless", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
    flags += ["disable-background-networking", "disable-component-update"]
    flags += ["disable-dev-shm-usage", f"user-data-dir={profile}", f"window-size={width},{height}"]
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


def open_page(driver: WebDriver, address: str, seconds: float = 20.0) -> None:
    """Opens a report and waits until its charts are drawn.

    Raises:
        TimeoutException: they are not within ``seconds``.
    """
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(address)
    WebDriverWait(driver, seconds, poll_frequency=0.02).until(
        lambda d: d.execute_script("return document.documentElement.dataset.ready")
    )
