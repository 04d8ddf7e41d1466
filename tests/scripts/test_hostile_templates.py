"""The attacks that scripts/soaking makes, on a real server: what it says meanwhile, and how it ends."""

import contextlib
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from scripts.soaking.hostile_templates import ATTACKS, TRIGGER, guarded
from tests.helpers.server_process import RunningServer
from tests.helpers.word_model import word_model

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
SOME = ("shared structure as JSON", "a template as a field", "variables of the template's own", "nested variables")


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "guarded.jinja").write_text(guarded(PLAIN), encoding="utf-8")
    model = word_model().write(folder / "words.gguf")
    return ("-m", str(model), "-t", "1", "-c", "256", "-np", "1", "--chat-template-file", str(folder / "guarded.jinja"))


def test_others_notice_nothing_and_a_signal_ends_it_all_the_same(flags: tuple[str, ...], tmp_path: Path) -> None:
    with RunningServer(*flags) as server:
        wrong: dict[str, str] = {}

        def attack() -> None:
            wrong.update({name: ATTACKS[name](server.url) for name in SOME})

        attacker = threading.Thread(target=attack)
        attacker.start()
        waits = []
        while attacker.is_alive():
            began = time.monotonic()
            assert server.client.get("/health").status_code == 200
            waits.append(time.monotonic() - began)
            time.sleep(0.05)
        assert wrong == dict.fromkeys(SOME, "")
        assert max(waits) < 2, waits  # a rendering takes 2 s
        body = {"messages": [{"role": "user", "content": TRIGGER + "loops"}]}
        with server.new_client() as client:
            late = threading.Thread(target=_post, args=(client, body))
            late.start()
            time.sleep(0.3)
            began = time.monotonic()
            server.signal(signal.SIGTERM)
            result = server.wait()
            assert time.monotonic() - began < 5
            late.join(30)
    assert result.code == 0
    assert "Traceback" not in result.err


def _post(client: httpx.Client, body: dict[str, object]) -> None:
    with contextlib.suppress(httpx.HTTPError):  # the server may close the connection
        client.post("/apply-template", json=body)


def test_a_template_that_is_hostile_to_every_chat_is_told_of_while_loading(flags: tuple[str, ...]) -> None:
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with RunningServer(*flags[:-2], "--chat-template", endless) as server:
        server.wait_for_log("warning: the chat template (the command line) failed: it takes longer than 2 s")
        assert server.client.get("/props").status_code == 200
        assert server.client.post("/completion", json={"prompt": "Once", "n_predict": 1}).status_code == 200
