"""Servers of encoders: vectors and ranks are torch's, whoever asks beside."""

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from powerinfer_cli import open_model
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.text import Tokenizer
from powerinfer_cli.text.algorithms.ranked_pair import pair_ids
from tests.helpers.families.encoders import states, tiny_encoder, with_words
from tests.helpers.families.family import TinyFamily
from tests.helpers.main_cli import powerinfer
from tests.helpers.server_process import RunningServer
from tests.helpers.word_model import word_model
from tests.serving.conftest import Servers

TEXTS = [f"a bear, {'and ' * n}a fox!" for n in range(20)]
QUERY, DOCUMENTS = "who is there?", ["a bear.", "the long day was over", "a fox", "x" * 90]


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return {
        name: with_words(tiny_encoder(name).file).write(folder / f"{name}.gguf") for name in ("bert", "bge-reranker")
    }


@pytest.fixture(scope="session")
def embedding(servers: Servers, paths: dict[str, Path]) -> RunningServer:
    return servers("-m", str(paths["bert"]), "-t", "1", "--alias", "bert")


@pytest.fixture(scope="session")
def ranking(servers: Servers, paths: dict[str, Path]) -> RunningServer:
    return servers("-m", str(paths["bge-reranker"]), "-t", "1", "--rerank", "--alias", "ranker")


def ids_of(path: Path, text: str) -> list[int]:
    return Tokenizer.from_gguf(path).encode(text)


def vector(tiny: TinyFamily, ids: list[int]) -> np.ndarray:
    mean = states(tiny, ids).mean(0)
    return mean / np.linalg.norm(mean)


def scores(path: Path) -> list[float]:
    tiny, tokenizer = tiny_encoder("bge-reranker"), Tokenizer.from_gguf(path)
    return [float(states(tiny, pair_ids(tokenizer, QUERY, document))[0]) for document in DOCUMENTS]


def test_vectors_are_torchs(embedding: RunningServer, paths: dict[str, Path]) -> None:
    tiny = tiny_encoder("bert")
    wanted = np.stack([vector(tiny, ids_of(paths["bert"], text)) for text in TEXTS])
    with embedding.openai() as client:
        several = client.embeddings.create(model="bert", input=TEXTS)  # base64
        short = client.embeddings.create(model="bert", input=TEXTS[0], dimensions=8).data[0].embedding
    np.testing.assert_allclose(np.array([one.embedding for one in several.data]), wanted, rtol=0, atol=2e-5)
    np.testing.assert_allclose(short, wanted[0][:8] / np.linalg.norm(wanted[0][:8]), rtol=0, atol=1e-4)
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda text: ask(embedding, "/v1/embeddings", {"input": text}), TEXTS))
    for one, other in zip(alone, several.data, strict=True):
        assert one.json()["data"][0]["embedding"] == pytest.approx(other.embedding, abs=1e-7)
    encoded = ask(embedding, "/v1/embeddings", {"input": TEXTS[0], "encoding_format": "base64"}).json()["data"][0]
    assert np.frombuffer(base64.b64decode(encoded["embedding"]), "<f4") == pytest.approx(wanted[0], abs=2e-5)


def test_more_texts_than_may_wait(embedding: RunningServer) -> None:
    """As many as OpenAI takes, in their order."""
    told = ask(embedding, "/v1/embeddings", {"input": ["a", "b b", "c"] * 200}).json()["data"]
    found = np.array([one["embedding"] for one in told])
    assert len(found) == 600
    np.testing.assert_array_equal(found, np.tile(found[:3], (200, 1)))
    assert np.abs(found[0] - found[1]).max() > 1e-3
    refused = ask(embedding, "/v1/embeddings", {"input": ["a"] * 2049})
    assert refused.status_code == 400
    assert '"input" must be at most 2048 prompts, got 2049' in refused.json()["error"]["message"]


def test_more_documents_than_may_wait(ranking: RunningServer) -> None:
    results = ask(ranking, "/rerank", {"query": "a", "documents": ["b", "a"] * 300}).json()["results"]
    assert sorted(one["index"] for one in results) == list(range(600))
    assert len({one["relevance_score"] for one in results}) == 2


def ask(server: RunningServer, path: str, body: Any) -> httpx.Response:
    return server.client.post(path, json=body)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/embeddings", {"input": "x y " * 200}, 400, "input (402 tokens) is too large to process"),
        ("/v1/embeddings", {"input": "x", "dimensions": 73}, 400, "'dimensions': must be 1 to 72, got 73"),
        ("/v1/embeddings", {"input": "x", "dimensions": 0}, 400, "'dimensions': must be 1 to 72, got 0"),
        ("/completion", {"prompt": "x", "n_predict": 2}, 501, "makes vectors of texts, and writes none"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, 501, "and writes none"),
        ("/rerank", {"query": "a", "documents": ["b"]}, 501, "does not support reranking. Start it with `--reranking`"),
    ],
)
def test_what_it_cannot_do(embedding: RunningServer, path: str, body: Any, status: int, words: str) -> None:
    answer = ask(embedding, path, body)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text
    assert ask(embedding, "/v1/embeddings", {"input": "x"}).is_success


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/reranking", "/v1/reranking"])
def test_ranks_are_torchs(ranking: RunningServer, paths: dict[str, Path], path: str) -> None:
    wanted = scores(paths["bge-reranker"])
    body = ask(ranking, path, {"query": QUERY, "documents": DOCUMENTS}).json()
    assert (body["object"], body["model"]) == ("list", "ranker")
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 90
    order = [one["index"] for one in body["results"]]
    assert order == sorted(range(4), key=lambda i: -wanted[i])
    for one in body["results"]:
        assert one["relevance_score"] == pytest.approx(wanted[one["index"]], abs=1e-4)


def test_ranks_in_the_other_form(ranking: RunningServer) -> None:
    best = ask(ranking, "/rerank", {"query": QUERY, "texts": DOCUMENTS, "top_n": 2, "return_text": True}).json()
    assert [sorted(one) for one in best] == [["index", "score", "text"]] * 2
    assert all(one["text"] == DOCUMENTS[one["index"]] for one in best)
    assert best[0]["score"] >= best[1]["score"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"documents": ["a"]}, '"query" must be provided'),
        ({"query": 5, "documents": ["a"]}, '"query" must be a string'),
        ({"query": "a"}, '"documents" must be a non-empty string array'),
        ({"query": "a", "documents": []}, '"documents" must be a non-empty string array'),
        ({"query": "a", "documents": ["b", 3]}, '"documents" must be a non-empty string array'),
        ({"query": "a", "documents": ["b"], "top_n": "x"}, "top_n"),
        ({"query": "a", "documents": ["x y " * 200]}, "is too large to process"),
    ],
)
def test_wrong_questions(ranking: RunningServer, body: Any, words: str) -> None:
    answer = ask(ranking, "/rerank", body)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (400, True), answer.text


def test_rankers_make_no_vectors(ranking: RunningServer) -> None:
    answer = ask(ranking, "/v1/embeddings", {"input": "x"})
    assert (answer.status_code, "ask /rerank" in answer.text) == (501, True)


def test_a_model_that_cannot_rank_is_not_served_as_a_ranker(paths: dict[str, Path]) -> None:
    for model in (["-m", str(paths["bert"])], []):
        found = powerinfer("server", *model, "--rerank", "--port", "0", "-t", "1")
        assert (found.code, found.err.count("no classification head")) == (1, 1)


def test_from_python(paths: dict[str, Path]) -> None:
    with open_model(paths["bert"], n_threads=1) as model:
        found = model.embed(TEXTS)
        np.testing.assert_array_equal(model.embed(TEXTS[3]), found[3])
        assert found[0] == pytest.approx(vector(tiny_encoder("bert"), ids_of(paths["bert"], TEXTS[0])), abs=1e-5)
        with pytest.raises(PowerInferError, match="no classification head"):
            model.rerank(QUERY, DOCUMENTS)
        with pytest.raises(PowerInferError, match="makes vectors of texts and writes none"):
            model.generate("a bear").read()
        with pytest.raises(PowerInferError, match="a text of 402 tokens is longer than the model takes"):
            model.embed("x y " * 200)
    with open_model(paths["bge-reranker"], n_threads=1) as model:
        assert model.rerank(QUERY, DOCUMENTS) == pytest.approx(scores(paths["bge-reranker"]), abs=1e-4)


def test_each_of_a_routers_models_does_what_it_can(paths: dict[str, Path], tmp_path: Path) -> None:
    for path in (paths["bge-reranker"], paths["bert"], word_model().write(tmp_path / "words.gguf")):
        if path.parent != tmp_path:
            (tmp_path / path.name).symlink_to(path)
    flags = "--models-dir", str(tmp_path), "--rerank", "--embedding", "-t", "1", "-c", "256"
    with RunningServer(*flags, env={"HF_HUB_CACHE": str(tmp_path / "hub")}) as router:
        ranks = ask(router, "/rerank", {"model": "bge-reranker", "query": QUERY, "documents": DOCUMENTS})
        assert len(ranks.json()["results"]) == 4
        assert ask(router, "/completion", {"model": "words", "prompt": "Once", "n_predict": 2}).is_success
        assert ask(router, "/v1/embeddings", {"model": "bert", "input": "x"}).is_success
        refused = ask(router, "/rerank", {"model": "words", "query": QUERY, "documents": DOCUMENTS})
        told = "model 'words' has no classification head, so that it cannot rank texts"
        assert (refused.status_code, refused.json()["error"]["message"]) == (501, told)
