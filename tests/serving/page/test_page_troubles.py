"""The page in a real browser: servers that fail, models that attack, a memory that makes no sense."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from powerinfer_cli.serving.errors import unavailable
from tests.serving.page.conftest import Tab
from tests.serving.page.fake_server import FakeServer, too_long

Start = Callable[..., tuple[FakeServer, str]]
Open = Callable[..., Tab]

HOSTILE = """<img src=x onerror="alert(1)"> <script>alert(2)</script> <b onclick="alert(3)">b</b>

[click](javascript:alert(4)) [data](data:text/html,<script>alert(5)</script>) ![pixel](https://evil.example/p.png)
[ok](https://example.org/?a=1&b=2 "title") <https://example.org/auto> [rel](/slots)
<style>body{display:none}</style><iframe src="https://evil.example/"></iframe><form action="/"><input name=q></form>

`</code><img src=x onerror=alert(6)>`

```html" onmouseover="alert(7)
<script>alert(8)</script>
```

| a |
| - |
| <svg onload=alert(9)> |
"""


def test_what_storage_holds_need_not_make_sense(start: Start, open_tab: Open) -> None:
    _, url = start()
    tab = open_tab(url)
    tab.say("Kept")
    tab.answer()
    tab.page.evaluate("""() => {
        localStorage.setItem("powerinfer.chat.1", "{not json");
        localStorage.setItem("powerinfer.chat.2", '{"id": "2", "messages": [{"role": "user"}]}');
        localStorage.setItem("powerinfer.chat.3", "null");
        localStorage.setItem("powerinfer.settings", '{"temperature": "hot", "system": 3}');
        localStorage.setItem("powerinfer.theme", "<plaid>");
    }""")
    tab.page.reload()
    expect(tab.page.locator(".said")).to_have_text("Kept")
    tab.say("Still works")
    assert tab.answer() == "Hello there."


@pytest.mark.parametrize("broken", ["setItem", "getItem"])
def test_a_browser_that_keeps_nothing(start: Start, open_tab: Open, broken: str) -> None:
    _, url = start()
    tab = open_tab(url)
    breaking = f"Storage.prototype.{broken} = () => {{ throw new DOMException('no', 'QuotaExceededError'); }}"
    tab.page.add_init_script(breaking)
    tab.page.reload()
    tab.say("Hi")
    assert tab.answer() == "Hello there."
    if broken == "setItem":
        expect(tab.page.locator("#toast")).to_contain_text("will not be kept")


def test_a_hostile_model_writes_text_only(start: Start, open_tab: Open) -> None:
    pieces = [HOSTILE[i : i + 5] for i in range(0, len(HOSTILE), 5)]
    _, url = start(answer=pieces, reasoning=["<img src=x onerror=alert(10)>"])
    tab = open_tab(url)
    tab.say("<img src=x onerror=alert(0)>")
    text = tab.answer()
    assert '<img src=x onerror="alert(1)">' in text
    assert "<script>alert(8)</script>" in text
    made = tab.page.locator("#log").locator(
        "img, script, style, iframe, form, input, svg[onload], [onclick], [onerror]"
    )
    assert made.count() == 0
    assert tab.page.locator("#log [onmouseover]").count() == 0
    links = tab.page.locator("#log a").evaluate_all("all => all.map(a => [a.getAttribute('href'), a.target, a.rel])")
    hrefs = [href for href, _, _ in links if href is not None]
    assert hrefs == ["https://evil.example/p.png", "https://example.org/?a=1&b=2", "https://example.org/auto"]
    assert all(target == "_blank" and "noopener" in rel for _, target, rel in links)
    assert not [asked for asked in tab.urls if "evil" in asked]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (too_long(), "5000 tokens, and the server has room for 4096"),
        (unavailable("Loading model"), "still loading its model"),
        (unavailable("the queue is full"), "too much to do"),
    ],
)
def test_errors_are_told_in_plain_words(start: Start, open_tab: Open, error: Exception, words: str) -> None:
    server, url = start(error=error)
    tab = open_tab(url)
    tab.say("Hi")
    expect(tab.page.get_by_role("alert")).to_contain_text(words)
    server.error = None
    tab.page.get_by_role("button", name="Try again").click()
    assert tab.answer() == "Hello there."
    expect(tab.page.get_by_role("alert")).to_have_count(0)


def test_a_stream_that_breaks_leaves_what_came(start: Start, open_tab: Open) -> None:
    server, url = start(cut_after=2)
    tab = open_tab(url)
    tab.say("Hi")
    expect(tab.page.get_by_role("alert")).to_contain_text("broke off")
    assert tab.answer() == "Hello there"
    server.cut_after = None
    tab.page.get_by_role("button", name="Try again").click()
    expect(tab.page.get_by_role("alert")).to_have_count(0)
    assert tab.answer() == "Hello there."


def test_a_server_that_is_gone(start: Start, open_tab: Open) -> None:
    server, url = start()
    tab = open_tab(url)
    expect(tab.page.locator("h1")).to_have_text("fake-7b.gguf")
    server.stop()
    tab.say("Is anybody there?")
    expect(tab.page.get_by_role("alert")).to_contain_text("does not answer")
    expect(tab.page.locator("#state")).to_have_text("No answer from the server")
    expect(tab.page.locator(".said")).to_have_text("Is anybody there?")


def test_a_server_that_loads_and_wants_a_key(start: Start, open_tab: Open) -> None:
    server, url = start(loading=True, key="sesame")
    tab = open_tab(url)
    expect(tab.page.locator("#state")).to_have_text("Loading the model…")
    tab.say("Too early")
    expect(tab.page.get_by_label("Message", exact=True)).to_have_value("Too early")
    server.loading = False
    expect(tab.page.locator("#state")).to_have_text("API key needed")
    expect(tab.page.get_by_role("dialog")).to_contain_text("The server wants an API key")
    tab.page.keyboard.type("sesame")
    tab.page.keyboard.press("Enter")
    expect(tab.page.locator("h1")).to_have_text("fake-7b.gguf")
    tab.page.get_by_role("button", name="Send").click()
    assert tab.answer() == "Hello there."
    server.key = "changed"
    tab.say("And now?")
    expect(tab.page.get_by_role("alert")).to_contain_text("API key")
    tab.page.get_by_role("button", name="Enter the key").click()
    expect(tab.page.get_by_label("API key")).to_be_focused()
