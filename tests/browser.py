"""A headless Chromium for tests of pages: opens a file with the network off, and remembers what went wrong there.

Playwright drives the Chromium of the system; it downloads none. Not responsible for what a page should show.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser as Chromium
    from playwright.sync_api import ConsoleMessage, Dialog, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'holloway[test]'")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing: apt-get install chromium")
WIDTH, HEIGHT = 1360, 1000


@dataclass
class Opened:
    """A page that is open. `page` is Playwright's.

    `wrongs` are errors and warnings, `requests` the addresses asked for, `refused` those that gave nothing, and why.
    """

    page: Page
    wrongs: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def take_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrongs.append(message.text)

    def take_dialog(self, dialog: Dialog) -> None:
        self.wrongs.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def of_all(self, selector: str, function: str) -> Any:
        """What a JavaScript function says of all elements of a selector, once what was asked for is drawn.

        They are found and asked in one turn of the page. Playwright's own calls find them in one turn and ask in the
        next: what is drawn anew between the two is no longer in the document, has no style and no laid-out text.
        """
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self.page.evaluate(f"selector => ({function})([...document.querySelectorAll(selector)])", selector)

    def texts(self, selector: str) -> list[str]:
        return [str(each) for each in self.of_all(selector, "all => all.map(each => each.innerText)")]


class Browser:
    """One Chromium process."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium

    @contextmanager
    def open(self, path: Path, *, is_dark: bool = False) -> Iterator[Opened]:
        """The page of a file, in a window and with a clipboard of its own."""
        context = self._chromium.new_context(
            viewport={"width": WIDTH, "height": HEIGHT},
            color_scheme="dark" if is_dark else "light",
            offline=True,
            timezone_id="UTC",
        )
        try:
            page = context.new_page()
            opened = Opened(page)
            page.on("console", opened.take_message)
            page.on("dialog", opened.take_dialog)
            page.on("pageerror", lambda error: opened.wrongs.append(str(error)))
            page.on("request", lambda request: opened.requests.append(request.url))
            page.on("requestfailed", lambda request: opened.refused.update({request.url: request.failure or ""}))
            page.goto(path.as_uri())
            yield opened
        finally:
            context.close()


@contextmanager
def plain_asyncio() -> Iterator[None]:
    """Event loops are asyncio's own meanwhile: who has imported trio-asyncio gets others, which Playwright cannot use."""
    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(None)


@contextmanager
def started() -> Iterator[Browser]:
    """A browser for as long as the block lasts."""
    with plain_asyncio(), sync_api.sync_playwright() as playwright:
        # A container has neither the namespaces for the sandbox nor much shared memory; the pages are our own.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield Browser(chromium)
        finally:
            chromium.close()
