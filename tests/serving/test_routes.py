"""The simple routes of a real server, from outside."""

import httpx
from openai import OpenAI


def test_health(client: httpx.Client) -> None:
    for path in ("/health", "/v1/health"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert answer.headers["server"] == "powerinfer"
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert client.head("/health").status_code == 200


def test_models(client: httpx.Client, openai: OpenAI) -> None:
    for path in ("/models", "/v1/models", "/v1//models"):
        body = client.get(path).json()
        assert [one["id"] for one in body["data"]] == ["storyteller"]
        assert body["models"][0]["model"] == "storyteller"
    meta = body["data"][0]["meta"]
    assert set(meta) >= {"vocab_type", "n_vocab", "n_ctx", "n_ctx_train", "n_embd", "n_params", "size"}
    assert meta["n_params"] * 0.4 < meta["size"] < meta["n_params"] * 5
    assert [model.id for model in openai.models.list()] == ["storyteller"]


def test_tokens_and_back(client: httpx.Client) -> None:
    text = "What is the capital of France ?"
    ids = client.post("/tokenize", json={"content": text}).json()["tokens"]
    assert len(ids) > 5
    assert client.post("/detokenize", json={"tokens": ids}).json()["content"].strip() == text
    with_bos = client.post("/tokenize", json={"content": text, "add_special": True}).json()["tokens"]
    assert with_bos[1:] == ids
    mixed = client.post("/tokenize", json={"content": [with_bos[0], text]}).json()["tokens"]
    assert mixed == with_bos
    assert client.post("/tokenize", json={}).json() == {"tokens": []}


def test_pieces(client: httpx.Client) -> None:
    tokens = client.post("/tokenize", json={"content": "媽 and 🤗", "with_pieces": True}).json()["tokens"]
    pieces = [one["piece"].encode() if isinstance(one["piece"], str) else bytes(one["piece"]) for one in tokens]
    assert b"".join(pieces).decode().strip() == "媽 and 🤗"


def test_any_content_type_is_json(client: httpx.Client) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = client.post("/tokenize", content='{"content": "Once"}', headers=form)
    assert answer.json()["tokens"]
