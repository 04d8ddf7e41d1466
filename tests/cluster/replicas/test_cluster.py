"""Two replicas on Ray, as clients see them: the openai client, the page, and what they are told as replicas die."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from openai import APIError, OpenAI

from powerinfer_cli import open_model
from tests.helpers.cluster.replicas import RunningCluster, descendants, needs_ray

pytestmark = [needs_ray, pytest.mark.timeout(300)]

KEY = "secret"
FLAGS = ("--replicas", "2", "-t", "1", "-np", "2", "-c", "1024", "--metrics", "--alias", "storyteller")
PROMPT = "Once upon a time"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with RunningCluster(*FLAGS, "--context-shift", "--api-key", KEY, "--drain-seconds", "60") as running:
        yield running


@pytest.fixture(scope="module")
def client(cluster: RunningCluster) -> Iterator[httpx.Client]:
    with cluster.client(KEY) as client:
        yield client


@pytest.fixture(scope="module")
def openai(cluster: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cluster.url}/v1", api_key=KEY, timeout=100, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def alone() -> str:
    """The text that the engine writes without any server."""
    with open_model(n_ctx=1024, n_threads=1) as model:
        return "".join(model.generate(PROMPT, max_tokens=400, temperature=0))


def completion(n_tokens: int, **more: object) -> dict[str, object]:
    return {"prompt": PROMPT, "max_tokens": n_tokens, "temperature": 0, **more}


def test_openais_client_gets_the_engines_text(openai: OpenAI, alone: str) -> None:
    whole = openai.completions.create(model="any", prompt=PROMPT, max_tokens=16, temperature=0)
    assert alone.startswith(whole.choices[0].text)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 16
    chunks = list(openai.completions.create(model="any", prompt=PROMPT, max_tokens=16, temperature=0, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [model.id for model in openai.models.list()] == ["storyteller"]


def test_keys_and_limits_are_the_servers(cluster: RunningCluster, client: httpx.Client) -> None:
    with cluster.client() as stranger:
        assert stranger.get("/health").json() == {"status": "ok"}
        assert stranger.get("/").text.startswith("<!doctype html>")
        assert stranger.post("/v1/completions", json=completion(1)).status_code == 401
        origin = {"Origin": "http://elsewhere.example"}
        assert "access-control-allow-origin" not in stranger.get("/health", headers=origin).headers
    assert client.post("/v1/completions", json=completion(-5)).status_code == 400
    assert client.post("/v1/completions", content=b"{").status_code == 400
    assert client.post("/v1/completions", content=b" " * (3 << 20)).status_code == 413
    assert client.post("/v1/completions", content=iter([b" " * (1 << 20)] * 17)).status_code == 413
    assert client.get("/nothing").status_code == 404
    assert client.post("/slots/0?action=erase").status_code == 501


def test_what_is_larger_than_messages_of_grpc_passes(client: httpx.Client) -> None:
    """4 MiB, where nothing is said. The limits of a request are those of a replica."""
    body = {"content": "Once upon a time " * 50_000, "with_pieces": True}
    answer = client.post("/tokenize", json=body)
    assert answer.status_code == 200
    assert len(answer.content) > 4 << 20
    assert "".join(token["piece"] for token in answer.json()["tokens"]).strip() == str(body["content"]).strip()
    assert client.post("/v1/completions", content=b" " * (5 << 20)).status_code == 413


def test_a_conversation_stays_with_its_replica(client: httpx.Client) -> None:
    """And another one goes to the other: it is that one's turn. It is longer than what a text costs that the door may
    still take for being written.
    """
    replicas = []
    before = [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Go on."}] * 5
    for name in ("fox", "bear"):
        messages = [{"role": "user", "content": f"Tell me of a {name}. " + "It lives in a wood. " * 20}, *before]
        answers = []
        for _ in range(3):
            body = {"messages": messages, "max_tokens": 8, "temperature": 0}
            answers.append(client.post("/v1/chat/completions", json=body))
            messages += [answers[-1].json()["choices"][0]["message"], {"role": "user", "content": "Go on."}]
        (replica,) = {answer.headers["x-powerinfer-replica"] for answer in answers}
        replicas.append(replica)
        cached = [answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers]
        assert cached[0] < 100 < cached[1] < cached[2]
    assert len(set(replicas)) == 2
    metrics = client.get("/metrics").text
    assert "powerinfer:replicas 2\n" in metrics
    for replica in replicas:
        assert f'llamacpp:tokens_predicted_total{{replica="{replica}"}}' in metrics
    assert {slot["replica"] for slot in client.get("/slots").json()} == set(replicas)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_the_page_chats(cluster: RunningCluster) -> None:
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(extra_http_headers={"Authorization": f"Bearer {KEY}"})
        page.goto(cluster.url)
        page.get_by_label("Message", exact=True).fill("Hello")
        page.keyboard.press("Enter")
        article = page.locator("article.assistant").first
        expect(article).to_have_attribute("aria-busy", "false", timeout=60_000)
        assert article.locator(".prose").inner_text().strip()
        browser.close()


def test_who_dies_is_replaced_and_nobody_gets_half_an_answer(
    cluster: RunningCluster, client: httpx.Client, openai: OpenAI, alone: str
) -> None:
    """A stream that was begun ends with an error; what had sent nothing is answered, whole, by a new replica."""
    pids, endless = cluster.replicas(), {"ignore_eos": True}
    with ThreadPoolExecutor(2) as pool:
        stream = openai.completions.create(
            model="any", prompt=PROMPT, max_tokens=3500, temperature=0, stream=True, extra_body=endless
        )
        pieces = [next(iter(stream)).choices[0].text]
        others = [pool.submit(client.post, "/v1/completions", json=completion(350)) for _ in range(2)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(APIError, match="a replica has died"):
            pieces += [chunk.choices[0].text for chunk in stream]
        assert ("".join(pieces)).startswith(alone) or alone.startswith("".join(pieces))
        for other in others:
            answer = other.result()
            assert answer.status_code == 200
            assert alone.startswith(answer.json()["choices"][0]["text"])
    cluster.until(lambda: "powerinfer:replicas 2\n" in client.get("/metrics").text)


def test_at_the_end_requests_may_finish_and_nothing_is_left(cluster: RunningCluster, client: httpx.Client) -> None:
    """The last test: it ends the cluster."""
    below = descendants(cluster.process.pid)
    assert len(cluster.replicas()) == 2
    body = completion(300, stream=True, ignore_eos=True)
    with client.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        cluster.process.send_signal(signal.SIGTERM)
        told = [line.removeprefix("data: ") for line in lines if line]
    assert told[-1] == "[DONE]"
    assert json.loads(told[-2])["choices"][0]["finish_reason"] == "length"
    assert cluster.process.wait(100) == 0, cluster.log
    assert "Traceback" not in cluster.log
    assert not [command for pid, command in below.items() if Path(f"/proc/{pid}").exists()]
