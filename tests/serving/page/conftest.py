"""One browser for each file of tests of the page, and a server that answers as a test wants."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.serving.page.fake_server import FakeServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
expect.set_options(timeout=10_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium. Not playwright's own, which it would have to download. Not for a session: while it is open
    this thread has an event loop that runs, and tests elsewhere start their own.
    """
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with sync_playwright() as playwright:
        # A container's user has no namespaces for the sandbox; the pages are ours.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Tab:
    """A page, and what it did. problems: errors of the console, and of scripts, but for answers that are no success."""

    page: Page
    urls: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("request", self._request)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))

    def _request(self, request: Request) -> None:
        self.urls.append(request.url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.problems.append(message.text)

    def say(self, text: str) -> None:
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def answer(self, n: int = -1) -> str:
        """What the n-th answer says once it is written."""
        expect(self.page.get_by_role("button", name="Stop")).to_be_hidden()
        article = self.page.locator("article.assistant").nth(n)
        expect(article).to_have_attribute("aria-busy", "false")  # its text is painted a frame later
        return article.locator(".prose").inner_text()


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """Opens a URL in a browser of its own, with an empty memory; the keyword arguments are of `new_context`."""
    tabs: list[Tab] = []

    def opened(url: str, **context: object) -> Tab:
        tab = Tab(browser.new_context(**context).new_page())  # type: ignore[arg-type]  # playwright's long list
        tab.watch()
        tabs.append(tab)
        tab.page.goto(url)
        return tab

    yield opened
    for tab in tabs:
        problems = list(tab.problems)
        tab.page.context.close()
        assert problems == []


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[FakeServer, str]]]:
    """Starts a fake server, whose fields are the keyword arguments; it and its URL."""
    servers: list[FakeServer] = []

    def started(**fields: object) -> tuple[FakeServer, str]:
        server = FakeServer(**fields)  # type: ignore[arg-type]  # as its fields are typed
        servers.append(server)
        return server, server.start()

    yield started
    for server in servers:
        server.stop()
