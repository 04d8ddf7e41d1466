"""Completions by a real server, asked for by real clients: httpx, OpenAI's own, and sockets that go away."""

import json
import re
import socket
import time
from typing import Any

import httpx
import numpy as np
import pytest
from openai import BadRequestError, OpenAI

from tests.helpers.server_process import RunningServer
from tests.serving.conftest import Servers

PROMPT = "Once upon a time"


def complete(client: httpx.Client, **fields: Any) -> Any:
    response = client.post("/completion", json={"prompt": PROMPT, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def stream(client: httpx.Client, **fields: Any) -> list[Any]:
    with client.stream("POST", "/completion", json={"prompt": PROMPT, "stream": True, **fields}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]


def test_a_stream_tells_the_same_as_a_whole_answer(client: httpx.Client) -> None:
    whole = complete(client, n_predict=40, return_tokens=True)
    *parts, last = stream(client, n_predict=40)
    assert "".join(part["content"] for part in parts) == whole["content"] != ""
    assert [token for part in parts for token in part["tokens"]] == whole["tokens"]
    assert [part["stop"] for part in parts] == [False] * len(parts)
    assert last["stop"] is True
    assert last["timings"]["predicted_n"] == whole["timings"]["predicted_n"] == len(whole["tokens"])


def test_a_stop_string_across_tokens_is_never_shown_in_part(client: httpx.Client) -> None:
    text = complete(client, n_predict=30)["content"]
    word = text[9:16]  # begins and ends inside words
    *parts, last = stream(client, n_predict=30, stop=[word, "never"])
    assert "".join(part["content"] for part in parts) == text[: text.index(word)]
    assert (last["stop_type"], last["stopping_word"]) == ("word", word)
    assert complete(client, n_predict=30, stop=word)["content"] == text[: text.index(word)]


def test_a_token_that_is_never_wanted(client: httpx.Client) -> None:
    first = complete(client, n_predict=1, return_tokens=True)["tokens"][0]
    assert complete(client, n_predict=1, return_tokens=True, logit_bias=[[first, False]])["tokens"] != [first]


def test_ignoring_the_end(client: httpx.Client) -> None:
    assert complete(client, ignore_eos=True, n_predict=400)["timings"]["predicted_n"] == 400


def test_nothing_but_the_prompt(client: httpx.Client) -> None:
    body = complete(client, n_predict=0, return_tokens=True)
    assert (body["content"], body["tokens"], body["tokens_predicted"]) == ("", [], 0)


def test_probabilities(client: httpx.Client) -> None:
    body = complete(client, n_predict=5, n_probs=4, return_tokens=True)
    assert [one["id"] for one in body["completion_probabilities"]] == body["tokens"]
    for one in body["completion_probabilities"]:
        assert len(one["top_logprobs"]) == 4
        assert one["top_logprobs"][0]["id"] == one["id"]  # greedy
        assert sum(np.exp(other["logprob"]) for other in one["top_logprobs"]) <= 1.0001
    body = complete(client, n_predict=5, n_probs=50, post_sampling_probs=True, temperature=1.0, top_k=3, min_p=0)
    for one in body["completion_probabilities"]:
        assert 1 <= len(one["top_probs"]) <= 3
        assert sum(other["prob"] for other in one["top_probs"]) == pytest.approx(1, abs=1e-4)


def test_the_same_prompt_is_read_once(client: httpx.Client) -> None:
    prompt = "The old bear walked through the dark forest and saw a light"
    first = complete(client, prompt=prompt, n_predict=2, cache_prompt=False, id_slot=2)["timings"]
    again = complete(client, prompt=prompt, n_predict=2, id_slot=2)["timings"]
    assert first["cache_n"] == 0
    assert again["prompt_n"] == 1
    assert again["cache_n"] + again["prompt_n"] == first["prompt_n"]


def test_seeds(client: httpx.Client) -> None:
    texts = [complete(client, n_predict=24, temperature=1.5, seed=seed)["content"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    first, second = complete(client, n_predict=24, temperature=1.5, seed=1, n=2)
    assert first["content"] != second["content"]
    assert (first["generation_settings"]["seed"], second["generation_settings"]["seed"]) == (1, 2)


def test_grammars(client: httpx.Client) -> None:
    assert complete(client, grammar='root ::= "yes" | "no"', temperature=2.0)["content"] in {"yes", "no"}
    schema = {
        "type": "object",
        "properties": {"age": {"enum": [1, 2]}},
        "required": ["age"],
        "additionalProperties": False,
    }
    text = complete(client, json_schema=schema, temperature=2.0, n_predict=200)["content"]
    assert json.loads(text)["age"] in {1, 2}
    response = client.post("/completion", json={"prompt": "x", "grammar": "root ::= ("})
    assert response.status_code == 400
    assert "grammar" in response.json()["error"]["message"]


def test_openais_client(openai: OpenAI) -> None:
    whole = openai.completions.create(model="any", prompt=PROMPT, max_tokens=12, logprobs=2)
    choice = whole.choices[0]
    assert choice.finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens) == choice.text
    chunks = list(
        openai.completions.create(
            model="any", prompt=PROMPT, max_tokens=12, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == choice.text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_openais_client_with_several(openai: OpenAI) -> None:
    prompts = [PROMPT, "The dog"]
    whole = openai.completions.create(model="any", prompt=prompts, max_tokens=8, n=2, stop=["never"])
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert whole.choices[0].text == whole.choices[1].text != whole.choices[2].text
    texts = ["", "", "", ""]
    for chunk in openai.completions.create(model="any", prompt=prompts, max_tokens=8, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


@pytest.mark.parametrize("streaming", [False, True])
def test_openais_client_is_told_what_is_wrong(openai: OpenAI, streaming: bool) -> None:
    with pytest.raises(BadRequestError, match="exceeds the available context size"):
        openai.completions.create(model="any", prompt="word " * 3000, stream=streaming)


def n_written(client: httpx.Client) -> int:
    found = re.search(r"^llamacpp:tokens_predicted_total (\d+)", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("body", [{"stream": True}, {"stream": False}, {"stream": False, "prompt": ["a", "b", "c"]}])
def test_who_goes_away_leaves_the_slots_free(server: RunningServer, client: httpx.Client, body: Any) -> None:
    n_before = n_written(client)
    content = json.dumps({"prompt": PROMPT, "ignore_eos": True, "n_predict": 900, **body}).encode()
    head = f"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with socket.create_connection(server.address) as connection:
        connection.sendall(head + content)
        deadline = time.monotonic() + 30
        while not any(slot["is_processing"] for slot in client.get("/slots").json()):
            assert time.monotonic() < deadline
    while any(slot["is_processing"] for slot in client.get("/slots").json()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert n_written(client) - n_before < 900  # it was not written to its end


@pytest.fixture(scope="module")
def embedder(servers: Servers) -> httpx.Client:
    return servers("-c", "512", "-np", "2", "-t", "1", "--embedding", "--pooling", "mean").client


def test_embeddings(embedder: httpx.Client) -> None:
    texts = ["The dog ran home", "The dog ran home", "A completely different sentence", "word " * 150]
    body = embedder.post("/v1/embeddings", json={"input": texts}).json()
    vectors = np.array([one["embedding"] for one in body["data"]])
    assert vectors.shape[0] == 4
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-4)
    assert vectors[0] @ vectors[2] < 0.999
    assert embedder.post("/embedding", json={"content": texts[0]}).json()[0]["embedding"][0] == pytest.approx(
        vectors[0], abs=1e-4
    )


def test_openais_client_gets_the_same_vectors(embedder: httpx.Client) -> None:
    url = str(embedder.base_url).rstrip("/")
    plain = embedder.post("/v1/embeddings", json={"input": "The dog"}).json()["data"][0]["embedding"]
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="any", input="The dog")  # it asks for base64
    assert answer.data[0].embedding == pytest.approx(plain, abs=1e-4)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def test_a_server_of_embeddings_completes_too(embedder: httpx.Client) -> None:
    assert complete(embedder, n_predict=3)["tokens_predicted"] == 3
