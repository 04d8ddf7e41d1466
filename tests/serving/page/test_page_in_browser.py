"""The page in a real browser: what a person does with it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.serving.page.conftest import Tab
from tests.serving.page.fake_server import FakeServer

Start = Callable[..., tuple[FakeServer, str]]
Open = Callable[..., Tab]
SLOW = [f"word{i} " for i in range(200)]


def last(tab: Tab) -> Locator:
    return tab.page.locator("article.assistant").last


def test_what_is_sent_and_what_is_shown(start: Start, open_tab: Open) -> None:
    server, url = start(answer=["Hello **you**", ".\n\n```python\nprint(", "1)\n```\n"])
    tab = open_tab(url)
    expect(tab.page.locator("h1")).to_have_text("fake-7b.gguf")
    tab.say("Hi  there\nagain")
    assert tab.answer().startswith("Hello you.")
    expect(last(tab).locator("strong")).to_have_text("you")
    expect(last(tab).locator("pre")).to_have_text("print(1)\n")
    expect(last(tab).locator(".stats")).to_have_text(
        re.compile(r"^3 tokens · 25\.0 tokens/s · \d+\.\d s · prompt 10 tokens, 7 from the cache$")
    )
    assert tab.page.locator("article.user .said").inner_text() == "Hi  there\nagain"
    (body,) = server.bodies
    assert body["messages"] == [{"role": "user", "content": "Hi  there\nagain"}]
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert "temperature" not in body  # the server's own
    tab.say("More")
    tab.answer(1)
    roles = [message["role"] for message in server.bodies[1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert {url_.startswith(url) for url_ in tab.urls} == {True}


def test_text_grows_and_stops_and_is_written_anew(start: Start, open_tab: Open) -> None:
    server, url = start(answer=SLOW, pause=0.02)
    tab = open_tab(url)
    tab.say("Go")
    prose = last(tab).locator(".prose")
    expect(prose).to_contain_text("word3 ")
    early = prose.inner_text()
    expect(last(tab).locator(".stats")).to_contain_text("25.0 tokens/s")
    expect(prose).to_contain_text("word12 ")
    assert prose.inner_text().startswith(early.strip())
    tab.page.get_by_role("button", name="Stop").click()
    expect(last(tab).locator(".stats")).to_contain_text("stopped")
    assert "word199" not in tab.answer()
    server.answer, server.pause = ["Other"], 0.0
    tab.page.get_by_role("button", name="Answer again").click()
    expect(prose).to_have_text("Other")
    assert tab.page.locator("article").count() == 2
    assert server.bodies[1]["messages"] == [{"role": "user", "content": "Go"}]
    assert server.left == 1


def test_a_message_is_edited_and_answered_anew(start: Start, open_tab: Open) -> None:
    server, url = start()
    tab = open_tab(url)
    tab.say("Frist")
    tab.answer()
    tab.page.get_by_role("button", name="Edit message").click()
    tab.page.locator("form.edit textarea").fill("First")
    tab.page.keyboard.press("Enter")
    expect(tab.page.locator("article.user .said")).to_have_text("First")
    tab.answer()
    assert server.bodies[1]["messages"] == [{"role": "user", "content": "First"}]


def test_conversations_stay_in_the_browser(start: Start, open_tab: Open, tmp_path: Path) -> None:
    _, url = start()
    tab = open_tab(url)
    tab.say("The first")
    tab.answer()
    tab.page.get_by_role("button", name="New chat", exact=True).first.click()
    tab.say("The second")
    tab.answer()
    tab.page.get_by_label("Message", exact=True).fill("not sent yet")
    tab.page.reload()
    expect(tab.page.locator(".said")).to_have_text("The second")
    expect(tab.page.get_by_label("Message", exact=True)).to_have_value("not sent yet")
    tab.page.get_by_role("button", name="The first", exact=True).click()
    expect(tab.page.locator(".said")).to_have_text("The first")
    with tab.page.expect_download() as download:
        tab.page.get_by_role("button", name="Export: The first").click()
    download.value.save_as(tmp_path / "chat.json")
    messages = json.loads((tmp_path / "chat.json").read_text())["messages"]
    assert messages == [{"role": "user", "content": "The first"}, {"role": "assistant", "content": "Hello there."}]
    tab.page.get_by_role("button", name="Delete: The first").click()
    expect(tab.page.get_by_role("button", name="The first", exact=True)).to_have_count(0)
    tab.page.get_by_role("button", name="Undo").click()
    expect(tab.page.locator(".said")).to_have_text("The first")


def test_thoughts_are_folded_and_tool_calls_are_json(start: Start, open_tab: Open) -> None:
    calls = [{"id": "c1", "function": {"name": "weather", "arguments": '{"city":'}}, {"function": {}}]
    server, url = start(reasoning=["Let me ", "think."], answer=[], tool_calls=calls[:1])
    tab = open_tab(url)
    tab.say("How is the weather?")
    tab.answer()
    thoughts = last(tab).locator(".thoughts")
    expect(thoughts).to_be_hidden()
    last(tab).get_by_text("Thoughts").click()
    expect(thoughts).to_have_text("Let me think.")
    expect(last(tab)).to_contain_text("Tool call: weather")
    expect(last(tab).locator("pre")).to_have_text('{"city":')  # as far as it came
    server.tool_calls = [{"id": "c1", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}]
    tab.page.get_by_role("button", name="Answer again").click()
    expect(last(tab).locator("pre")).to_have_text('{\n  "city": "Bern"\n}')


def test_settings_are_sent_and_kept_and_reset(start: Start, open_tab: Open) -> None:
    server, url = start()
    tab = open_tab(url)
    tab.page.get_by_role("button", name="Settings").click()
    temperature = tab.page.get_by_label("Temperature")
    expect(temperature).to_have_attribute("placeholder", "0.8")
    temperature.fill("0.25")
    tab.page.get_by_label("Max tokens").fill("12")
    tab.page.get_by_label("System prompt").fill("Be brief.")
    tab.page.get_by_role("button", name="Save").click()
    tab.page.reload()
    expect(tab.page.locator("h1")).to_have_text("fake-7b.gguf")
    tab.say("Hi")
    tab.answer()
    body = server.bodies[0]
    assert (body["temperature"], body["max_tokens"], "top_p" in body) == (0.25, 12, False)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    tab.page.get_by_role("button", name="Settings").click()
    tab.page.get_by_role("button", name="Reset to defaults").click()
    tab.page.get_by_role("button", name="Save").click()
    tab.say("Hi")
    tab.answer(1)
    assert "temperature" not in server.bodies[1]
    assert server.bodies[1]["messages"][0]["role"] == "user"


def test_by_keyboard_alone(start: Start, open_tab: Open) -> None:
    server, url = start(answer=SLOW, pause=0.02)
    tab = open_tab(url)
    keys = tab.page.keyboard
    expect(tab.page.get_by_label("Message", exact=True)).to_be_focused()
    expect(tab.page.locator("h1")).to_have_text("fake-7b.gguf")
    keys.type("one")
    keys.press("Shift+Enter")
    keys.type("two")
    keys.press("Enter")
    expect(last(tab).locator(".prose")).to_contain_text("word2 ")
    assert server.bodies[0]["messages"][0]["content"] == "one\ntwo"
    keys.press("Escape")
    expect(last(tab).locator(".stats")).to_contain_text("stopped")
    reached = []
    tab.page.locator("body").evaluate("body => document.activeElement.blur()")
    for _ in range(20):
        keys.press("Tab")
        name = "document.activeElement.ariaLabel || document.activeElement.textContent || document.activeElement.id"
        reached.append(tab.page.evaluate(name))
    wanted = [
        "Skip to the message field",
        "New chat",
        "Neurons",
        "Theme",
        "Settings",
        "Conversation",
        "Answer again",
        "input",
    ]
    assert [name for name in reached if name in wanted][: len(wanted)] == wanted


def brightness(colour: str) -> int:
    """Of rgb(r, g, b), 0..765."""
    return sum(int(part) for part in re.findall(r"\d+", colour))


def test_a_phone_and_the_dark(start: Start, open_tab: Open) -> None:
    table = f"| {' | '.join(['column' * 3] * 9)} |\n|{' - |' * 9}"
    _, url = start(answer=[f"{table}\n\n```\n{'x' * 300}\n```\n{'y' * 300}"])
    tab = open_tab(url, viewport={"width": 360, "height": 640}, color_scheme="dark", has_touch=True)
    tab.say("z" * 200)
    tab.answer()
    width = "document.documentElement.scrollWidth"
    assert tab.page.evaluate(width) == 360
    assert tab.page.evaluate("document.querySelector('#scroller').scrollWidth <= 360")
    tab.page.get_by_role("button", name="Conversations", exact=True).click()
    expect(tab.page.get_by_role("button", name="New chat", exact=True)).to_be_in_viewport()
    tab.page.keyboard.press("Escape")
    tab.page.get_by_role("button", name="Neurons", exact=True).click()
    expect(tab.page.get_by_role("table").last).to_be_visible()
    assert tab.page.evaluate(width) == 360
    tab.page.get_by_role("button", name="Close neurons").click()
    back = "getComputedStyle(document.body).backgroundColor"
    dark = tab.page.evaluate(back)
    tab.page.get_by_role("button", name="Theme").click()
    light = tab.page.evaluate(back)
    assert brightness(dark) < 150
    assert brightness(light) > 600
    tab.page.reload()
    assert tab.page.evaluate(back) == light


@pytest.mark.parametrize(
    ("context", "shown"),
    [
        ({"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}, False),
        ({"viewport": {"width": 390, "height": 844}}, False),
        ({"viewport": {"width": 1280, "height": 800}}, True),
    ],
)
def test_keys_are_told_where_there_is_a_keyboard(
    start: Start, open_tab: Open, context: dict[str, object], shown: bool
) -> None:
    _, url = start()
    tab = open_tab(url, **context)
    hint = tab.page.get_by_text("Shift+Enter")
    expect(hint).to_be_visible() if shown else expect(hint).to_be_hidden()


def test_a_title_ends_with_a_whole_character(start: Start, open_tab: Open) -> None:
    _, url = start()
    tab = open_tab(url)
    tab.say("a" + "\U0001f98a" * 60)
    tab.answer()
    title = tab.page.locator("#conversations .open").first.inner_text()
    assert title == "a" + "\U0001f98a" * 59


def test_a_phone_while_the_model_loads(start: Start, open_tab: Open) -> None:
    server, url = start(loading=True)
    tab = open_tab(url, viewport={"width": 320, "height": 640}, is_mobile=True, has_touch=True)
    bar = tab.page.get_by_role("progressbar")
    expect(tab.page.locator("#state")).to_have_text("Loading the model…")
    expect(bar).to_be_hidden()
    server.progress = {"value": 0, "what": "starting"}
    expect(bar).not_to_have_attribute("value", re.compile(""))
    server.progress = {"value": 0.419, "what": "loading weights"}
    expect(bar).to_have_attribute("value", "0.419")
    expect(tab.page.locator("#percent")).to_have_text("41 %")
    expect(tab.page.locator("#state")).to_have_text("Loading the model… loading weights")
    assert tab.page.evaluate("innerWidth") == 320  # a page that is wider makes a phone's window wider
    server.loading = False
    expect(bar).to_be_hidden()
    expect(tab.page.locator("#state")).to_have_text("")


def test_the_neurons(start: Start, open_tab: Open) -> None:
    server, url = start(answer=SLOW, pause=0.02)
    tab = open_tab(url)
    tab.page.get_by_role("button", name="Neurons", exact=True).click()
    rows = tab.page.locator("#neurons tbody tr")
    expect(rows).to_have_count(24)
    assert rows.first.inner_text().split() == ["0", "700", "3.0", "%"]
    bar = rows.first.locator(".bar")
    share = bar.evaluate("bar => bar.querySelector('.hot').offsetWidth / bar.offsetWidth")
    assert share == pytest.approx(700 / 1024, abs=0.01)
    experts = {"n_experts": 8, "hot": [1, 6], "chosen": [6], "hit_rate": 0.25}
    mixture = {"index": 1, "neurons": 800, "hot": 0, "active": None, "experts": experts}
    server.neurons["layers"] = [{"index": 0, "neurons": 1024, "hot": 0, "active": 0.5}, mixture]
    server.neurons |= {"uploads": 12, "moved_bytes": 3 << 20}
    tab.say("Go")  # the panel follows while an answer is written
    expect(rows).to_have_count(2, timeout=2500)
    told = tab.page.locator("#neurons dl")
    expect(told).to_contain_text("none: all are in main memory")
    expect(told).to_contain_text("2 of 8 hot (25 %)")
    expect(told).to_contain_text("12 times, 3 MiB")
    assert rows.last.inner_text().split() == ["1", "2", "25", "%"]
    pixels = "canvas => [...canvas.getContext('2d').getImageData(0, 1, 8, 1).data].filter((_, i) => i % 4 == 3)"
    assert rows.last.locator("canvas").evaluate(pixels) == [0] * 6 + [255, 0]  # the chosen one's mark
    tab.page.wait_for_timeout(1200)
    asked = [url_ for url_ in tab.urls if url_.endswith("/internal/neurons")]
    assert 4 <= len(asked) <= 6  # once to see whether there is anything to show


def test_a_dense_model_has_no_panel_of_neurons(start: Start, open_tab: Open) -> None:
    """It would be bars of which each says that all neurons work."""
    server, url = start()
    server.neurons["sparse"] = False
    tab = open_tab(url)
    expect(tab.page.locator("h1")).to_have_text("fake-7b.gguf")
    tab.page.wait_for_timeout(200)
    expect(tab.page.get_by_role("button", name="Neurons", exact=True)).to_be_hidden()
    server.neurons["sparse"] = True
    tab.page.reload()
    expect(tab.page.get_by_role("button", name="Neurons", exact=True)).to_be_visible()


def test_the_end_is_followed_only_by_who_is_there(start: Start, open_tab: Open) -> None:
    _, url = start(answer=["line\n\n"] * 150, pause=0.01)
    tab = open_tab(url)
    tab.say("Go")
    below = "e => e.scrollHeight - e.scrollTop - e.clientHeight"
    scroller = tab.page.locator("#scroller")
    tab.page.wait_for_function("() => document.querySelector('#scroller').scrollTop > 200")
    assert scroller.evaluate(below) < 60
    scroller.hover()
    tab.page.mouse.wheel(0, -400)
    tab.page.wait_for_timeout(150)
    at = scroller.evaluate("e => e.scrollTop")
    tab.page.wait_for_timeout(300)
    assert scroller.evaluate("e => e.scrollTop") == at
    tab.page.get_by_role("button", name="To the newest text").click()
    tab.answer()
    assert scroller.evaluate(below) < 60
