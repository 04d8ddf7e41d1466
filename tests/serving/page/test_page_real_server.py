"""The page and a real server with the bundled model."""

import json
import re
import signal
import time
from collections.abc import Callable

import httpx
from playwright.sync_api import Route, expect

from tests.helpers.server_process import RunningServer
from tests.serving.page.conftest import Tab

Open = Callable[..., Tab]


def without_end(route: Route) -> None:
    """Has the model write until its context is full, or for ever where it shifts."""
    body = {**json.loads(route.request.post_data or ""), "ignore_eos": True}
    route.continue_(post_data=json.dumps(body))


# A quick machine fills a context of 512 tokens sooner than a click arrives, even from within the page.
ENDLESS = ("-c", "512", "-t", "1", "--context-shift")
STOP_EARLY = """() => {
  const stop = document.getElementById("stop");
  const timer = setInterval(() => {
    const text = document.querySelector("article.assistant .prose")?.innerText ?? "";
    if (stop.hidden || text.split(" ").length < 10) return;
    clearInterval(timer);
    stop.click();
  }, 1);
}"""


def words(n: int) -> re.Pattern[str]:
    """At least n of them."""
    return re.compile(rf"(\S+\s+){{{n}}}")


def test_a_story_is_told_and_kept(server: RunningServer, open_tab: Open) -> None:
    tab = open_tab(server.url)
    expect(tab.page.locator("h1")).to_have_text("storyteller")
    tab.page.get_by_role("button", name="Settings").click()
    expect(tab.page.get_by_label("Temperature")).to_have_attribute("placeholder", "0")
    tab.page.get_by_label("Max tokens").fill("40")
    tab.page.keyboard.press("Enter")
    tab.say("Tell me of a dog")
    story = tab.answer()
    assert len(story.split()) > 15
    stats = tab.page.locator("article.assistant .stats")
    expect(stats).to_contain_text("40 tokens")
    expect(stats).to_contain_text("tokens/s")
    expect(stats).to_contain_text("ended at the limit of tokens")
    tab.page.get_by_role("button", name="Answer again").click()
    expect(stats).to_contain_text("from the cache")
    assert tab.answer() == story  # greedy
    tab.page.reload()
    assert tab.answer() == story
    assert [url for url in tab.urls if not url.startswith(server.url)] == []


def test_stop_frees_the_slot(open_tab: Open) -> None:
    with RunningServer(*ENDLESS) as server, httpx.Client(base_url=server.url) as client:
        tab = open_tab(server.url)
        tab.page.route("**/v1/chat/completions", without_end)
        tab.page.evaluate(STOP_EARLY)
        tab.say("Tell me of a cat")
        expect(tab.page.locator("article.assistant .stats")).to_contain_text("stopped")
        deadline = time.monotonic() + 5
        while any(slot["is_processing"] for slot in client.get("/slots").json()):
            assert time.monotonic() < deadline
            tab.page.wait_for_timeout(20)


def test_a_conversation_that_is_too_long(server: RunningServer, open_tab: Open) -> None:
    tab = open_tab(server.url)
    tab.say("much too long " * 1000)
    expect(tab.page.get_by_role("alert")).to_contain_text("the server has room for 512")


def test_the_neurons_of_an_engine(server: RunningServer, client: httpx.Client, open_tab: Open) -> None:
    tab = open_tab(server.url)
    tab.page.get_by_role("button", name="Neurons", exact=True).click()
    tab.say("Tell me of a fish")
    assert len(tab.answer().split()) > 5
    told = client.get("/internal/neurons").json()
    assert (told["sparse"], told["devices"]) == (True, [])
    shares = [layer["active"] for layer in told["layers"]]
    assert all(0 < share < 1 for share in shares)
    assert len(set(shares)) > 1  # each layer has its own
    rows = tab.page.locator("#neurons tbody tr")
    expect(rows).to_have_count(len(shares))
    expect(rows.first).to_contain_text(re.compile(r"^0\s*0\s*[\d.]+ %$"))
    expect(tab.page.locator("#neurons dl")).to_contain_text("none: all are in main memory")


def test_the_server_dies(open_tab: Open) -> None:
    with RunningServer(*ENDLESS) as server:
        tab = open_tab(server.url)
        tab.page.route("**/v1/chat/completions", without_end)
        tab.say("Tell me of a bird")
        prose = tab.page.locator("article.assistant .prose")
        expect(prose).to_have_text(words(5))
        tab.page.get_by_label("Message", exact=True).fill("not lost")
        server.signal(signal.SIGKILL)
        alert = tab.page.get_by_role("alert")
        expect(alert).to_contain_text("broke off")
        assert len(prose.inner_text().split()) >= 5
        expect(tab.page.locator("#state")).to_have_text("No answer from the server")
        tab.page.get_by_role("button", name="Try again").click()
        expect(alert).to_contain_text("does not answer")
        expect(tab.page.locator(".said")).to_have_text("Tell me of a bird")
        expect(tab.page.get_by_label("Message", exact=True)).to_have_value("not lost")
