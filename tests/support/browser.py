"""The page in a real browser: Debian's Chromium without a window, driven by Playwright."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

CHROMIUM = shutil.which("chromium")
WITHIN_S, POLL_MS = 20.0, 40
"""Seconds within which what is waited for must be there."""
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("CI") != "true", reason="there is no Chromium (infra/ensure-chromium.sh)"
)


class Tab:
    """One page of a browser, with what went wrong in it and whom it asked."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        """What the console had as errors, and exceptions that nobody caught."""
        self.hosts: set[str] = set()
        page.set_default_timeout(WITHIN_S * 1000)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _asked(self, request: Request) -> None:
        if (parts := urlsplit(request.url)).netloc:
            self.hosts.add(parts.netloc)

    def open(self, url: str) -> None:
        """Go to an address; only to another view, if it is this page already."""
        self.page.goto(url)

    def wait_for(self, condition: str) -> None:
        """Wait until an expression of JavaScript is true; asked from outside, since the page forbids `eval`."""
        deadline = time.monotonic() + WITHIN_S
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"not within {WITHIN_S:g} s: {condition}"
            self.page.wait_for_timeout(POLL_MS)

    def text(self, selector: str) -> str:
        """Return what can be read there."""
        return self.page.inner_text(selector)

    def violations(self) -> list[str]:
        """Return what a checker of accessibility finds wrong with what is shown now."""
        found = Axe().run(self.page, options={"runOnly": {"type": "tag", "values": RULES}})
        return [
            f"{rule['id']} ({rule['help']}): {node['target']} {node.get('failureSummary', '')}"
            for rule in found.response["violations"]
            for node in rule["nodes"]
        ]


_browsers: list[Browser] = []


@contextmanager
def driven() -> Iterator[None]:
    """Have a browser run meanwhile, for all that are opened."""
    with sync_playwright() as driver:
        _browsers.append(driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS))
        try:
            yield
        finally:
            _browsers.pop().close()


@contextmanager
def browsing(
    width: int = 1280, height: int = 800, *, dark: bool = False, still: bool = False, scale: float = 1.0
) -> Iterator[Tab]:
    """Open a page of these pixels, with nothing remembered; ``still``: whose owner wants nothing to move."""
    context = _browsers[-1].new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=scale,
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce" if still else "no-preference",
    )
    try:
        yield Tab(context.new_page())
    finally:
        context.close()
