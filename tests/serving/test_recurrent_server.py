"""A server of a model with recurrent layers: of a chat that goes on, or is asked again, only what is new is read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from powerinfer_cli.text import Tokenizer
from tests.helpers.families.guessers import tiny_guesser
from tests.helpers.families.lettered import CHAT, lettered
from tests.helpers.main_cli import powerinfer
from tests.serving.conftest import Servers

OPENING = "<|im_start|>assistant\n<think>\n"
Message = dict[str, str]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lettered("lfm2").write(tmp_path_factory.mktemp("recurrent") / "lfm2.gguf")


@pytest.fixture
def client(servers: Servers, path: Path) -> httpx.Client:
    flags = ("-c", "1024", "-np", "2", "-t", "1", "-ub", "64", "-ctxcp", "7", "-cms", "64", "--temp", "0")
    server = servers("-m", str(path), *flags)
    assert "up to 7 saved of each" in server.log
    return server.client


def ask(client: httpx.Client, messages: list[Message]) -> tuple[str, dict[str, Any]]:
    found = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 9}).json()
    return found["choices"][0]["message"]["content"] or "", found["timings"]


def test_a_chat_goes_on(client: httpx.Client, path: Path) -> None:
    """Its template leaves out what opened the last answer, 20 tokens: from there on it is read."""
    tokenizer = Tokenizer.from_gguf(path)

    def n_tokens(text: str) -> int:
        return len(tokenizer.encode(text))

    def turn(question: str) -> str:
        return f"<|im_start|>user\n{question}<|im_end|>\n{OPENING}"

    assert n_tokens(OPENING) > 12
    system = {"role": "system", "content": "You answer. " * 20}
    messages: list[Message] = [system]
    for i, question in enumerate(("Who is there?", "And who was it that came before you, then?", "a")):
        messages.append({"role": "user", "content": question})
        told, timings = ask(client, messages)
        if i:
            said = f"<|im_start|>assistant\n{messages[-2]['content']}<|im_end|>\n"
            assert timings["prompt_n"] == n_tokens(said) + n_tokens(turn(question))
        again, timings = ask(client, messages)
        assert (again, timings["prompt_n"]) == (told, 1)
        messages.append({"role": "assistant", "content": f"Number {i}, of course."})
    other = "But what was it that you said of this, and why?"
    _, timings = ask(client, [*messages[:-2], {"role": "user", "content": other}])
    assert timings["prompt_n"] == n_tokens(turn(other)) - n_tokens("<|im_start|>user\n")


def test_within_a_prompt_every_64_tokens(client: httpx.Client) -> None:
    prompt = "abcdefghij" * 30
    ends = {"n_predict": 1, "id_slot": 1}
    assert client.post("/completion", json={"prompt": prompt, **ends}).json()["timings"]["prompt_n"] == 300
    other = prompt[:200] + "z" * 50
    assert client.post("/completion", json={"prompt": other, **ends}).json()["timings"]["cache_n"] == 192


@pytest.mark.parametrize("n", [0, 3])
def test_main_saves_as_many_as_it_is_told(path: Path, n: int) -> None:
    result = powerinfer("main", "-m", str(path), "-p", "abc", "-n", "2", "-t", "1", "-ctxcp", str(n))
    assert result.code == 0
    assert f"up to {n} saved of each" in result.err


@pytest.mark.parametrize("flags", [("-ctxcp", "-1"), ("-cms", "-1"), ("-ctxcp", "all"), ("-cms", "1.5")])
@pytest.mark.parametrize("command", ["main", "server"])
def test_numbers_of_states_that_make_no_sense(path: Path, command: str, flags: tuple[str, str]) -> None:
    result = powerinfer(command, "-m", str(path), *flags)
    assert (result.code, result.out) == (2, "")
    assert flags[0] in result.error


def test_drafts_change_no_text(tmp_path: Path) -> None:
    """Of a delta net, whose head for drafts is random: by what was written before, and by the head."""
    file, words = tiny_guesser("qwen35").file, lettered("qwen35").metadata
    file = replace(file, metadata=file.metadata | {key: value for key, value in words.items() if "tokenizer" in key})
    usual = ("-m", str(file.write(tmp_path / "qwen35.gguf")), "-t", "1", "-c", "256", "-n", "90", "--ignore-eos")
    texts = []
    for flags in ((), ("--spec-type", "ngram", "--spec-ngram-size-n", "1"), ("--spec-type", "mtp")):
        result = powerinfer("main", *usual, "-p", "the cat is there, the cat is ", "--temp", "0", *flags)
        assert (result.code, "tokens proposed" in result.err) == (0, bool(flags))
        texts.append(result.out)
    assert texts[0] == texts[1] == texts[2]


def test_a_chat_at_the_terminal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from powerinfer_cli.runtime import Engine

    read: list[int] = []
    prefill = Engine.prefill

    def noted(self: Engine, ids: list[int], *args: Any, **more: Any) -> Any:
        read.append(len(ids))
        return prefill(self, ids, *args, **more)

    monkeypatch.setattr(Engine, "prefill", noted)
    words = ["Who is there, and why would I answer?", "But why?", "/regen"]
    flags = ("-c", "512", "-n", "5", "-t", "1", "--temp", "0", "--chat-template", CHAT, "-sys", "You answer. " * 9)
    result = powerinfer("main", "-m", str(path), "-cnv", *flags, stdin="\n".join(words) + "\n")
    assert result.code == 0, result.err
    assert read[0] > 150
    assert read[1] < 90
    assert read[2] < 60
