"""The page before a router: a list of models, a switch amid a conversation, settings of each."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.helpers.server_process import RunningServer
from tests.helpers.word_model import ANSWER, word_model
from tests.serving.page.conftest import Tab

Open = Callable[..., Tab]
LOADING = 60_000  # ms that a busy machine may take to start a process


@pytest.fixture
def router(tmp_path: Path) -> Iterator[RunningServer]:
    models = tmp_path / "models"
    models.mkdir()
    for name in ("first", "second"):
        word_model().write(models / f"{name}.gguf")
    (models / "third.gguf").write_bytes(b"GGUF")
    flags = ("--models-dir", str(models), "-t", "1", "-c", "128", "--temp", "0")
    with RunningServer(*flags, env={"HF_HUB_CACHE": str(tmp_path / "hub")}) as running:
        yield running


def test_models_are_switched_amid_a_conversation(router: RunningServer, open_tab: Open) -> None:
    tab = open_tab(router.url)
    models = tab.page.get_by_label("Model", exact=True)
    expect(models).to_have_value("first")
    expect(models.locator("option")).to_have_count(3)
    tab.say("Hi")
    expect(tab.page.get_by_role("progressbar")).to_be_visible()
    expect(tab.page.locator("#state")).to_contain_text("Loading the model…")
    expect(tab.page.get_by_role("button", name="Stop")).to_be_hidden(timeout=LOADING)
    assert tab.answer().strip() == ANSWER
    expect(tab.page.get_by_role("progressbar")).to_be_hidden()
    expect(models.locator("option").first).to_contain_text(re.compile(r"loaded, \d+ MB of memory"), timeout=LOADING)
    models.select_option("second")
    tab.say("Hi again")
    expect(tab.page.get_by_role("button", name="Stop")).to_be_hidden(timeout=LOADING)
    assert tab.answer(1).strip() == ANSWER
    statuses = {one["id"]: one["status"]["value"] for one in router.client.get("/v1/models").json()["data"]}
    assert statuses == {"first": "loaded", "second": "loaded", "third": "unloaded"}
    models.select_option("third")
    tab.say("Hello?")
    expect(tab.page.locator("article.assistant").nth(2)).to_contain_text(
        "model 'third' failed to load", timeout=LOADING
    )
    expect(models.locator("option").nth(2)).to_contain_text("does not load", timeout=LOADING)


def test_each_model_has_its_own_settings(router: RunningServer, open_tab: Open) -> None:
    tab = open_tab(router.url)
    models = tab.page.get_by_label("Model", exact=True)
    expect(models).to_have_value("first")

    def temperature() -> str:
        tab.page.get_by_role("button", name="Settings").click()
        value = tab.page.locator("#temperature").input_value()
        tab.page.keyboard.press("Escape")
        return value

    tab.page.get_by_role("button", name="Settings").click()
    tab.page.locator("#temperature").fill("0.3")
    tab.page.get_by_role("button", name="Save").click()
    models.select_option("second")
    assert temperature() == ""
    models.select_option("first")
    assert temperature() == "0.3"
    tab.page.reload()
    expect(models).to_have_value("first")
    assert temperature() == "0.3"


def test_an_empty_chat_offers_samples(router: RunningServer, open_tab: Open) -> None:
    tab = open_tab(router.url)
    tab.page.get_by_role("button", name="Explain in three sentences").click()
    expect(tab.page.get_by_label("Message", exact=True)).to_have_value(
        "Explain in three sentences why the sky is blue."
    )
