"""Handlers of completions, with a thread that answers from a script."""

import json
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from powerinfer_cli.serving.errors import context_exceeded, server_error
from powerinfer_cli.serving.tasks import (
    CompletionTask,
    Event,
    Failed,
    PromptProgress,
    Stop,
    Task,
    TextPiece,
    TokenChance,
    TokenChances,
)
from tests.serving.fake_service import FakeService, finished, piece, post, timings

CHANCE = TokenChances(TokenChance(5, b" a", -0.5), (TokenChance(5, b" a", -0.5),))


def usual(task: Task) -> list[Event | None]:
    """Two pieces and an end, at a stop string."""
    assert isinstance(task, CompletionTask)
    chances = (CHANCE,) if task.n_probs else ()
    pieces: list[Event | None] = [
        TextPiece(" a", (5,), chances, timings(1)),
        TextPiece("\nb", (6,), chances, timings(2)),
    ]
    return [*pieces, finished(Stop.WORD, 2, stopping_word="END")]


def request(path: str, body: Any, script: Any = usual) -> tuple[httpx.Response, FakeService]:
    return post(path, body, script)


def events(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    return [line if line == "data: [DONE]" else json.loads(line.removeprefix("data: ")) for line in lines]


SETTINGS = """
seed temperature dynatemp_range dynatemp_exponent top_k top_p min_p top_n_sigma xtc_probability xtc_threshold typical_p
repeat_last_n repeat_penalty presence_penalty frequency_penalty dry_multiplier dry_base dry_allowed_length
dry_penalty_last_n dry_sequence_breakers mirostat mirostat_tau mirostat_eta adaptive_target adaptive_decay stop
max_tokens n_predict n_keep n_discard ignore_eos stream logit_bias n_probs min_keep grammar grammar_lazy
grammar_triggers preserved_tokens chat_format reasoning_format reasoning_in_content generation_prompt samplers
speculative.types timings_per_token post_sampling_probs backend_sampling lora
"""


def test_a_completion_has_every_field() -> None:
    response, service = request("/completion", {"prompt": "Once upon", "n_predict": 9, "stop": ["END"]})
    assert response.status_code == 200
    body = response.json()
    settings = body.pop("generation_settings")
    assert body.pop("timings")["predicted_n"] == 2
    assert body == {
        "index": 0,
        "content": " a\nb",
        "tokens": [],
        "id_slot": 1,
        "stop": True,
        "model": "fake",
        "tokens_predicted": 2,
        "tokens_evaluated": 3,
        "prompt": "<s> Once upon",
        "has_new_line": True,
        "truncated": False,
        "stop_type": "word",
        "stopping_word": "END",
        "tokens_cached": 7,
    }
    assert set(settings) == {*SETTINGS.split(), "tfs_z"}
    assert (settings["n_predict"], settings["max_tokens"], settings["stop"], settings["seed"]) == (9, 9, ["END"], 42)
    (task,) = service.tasks
    assert isinstance(task, CompletionTask)
    assert (task.n_predict, task.stop) == (9, ("END",))


def test_tokens_probabilities_and_biases_where_they_are_asked_for() -> None:
    fields = {"return_tokens": True, "n_probs": 1, "ignore_eos": True, "logit_bias": [[7, 1.5]]}
    body = request("/completions", {"prompt": [5], **fields})[0].json()
    assert body["tokens"] == [5, 6]
    assert [one["logprob"] for one in body["completion_probabilities"]] == [-0.5, -0.5]
    biases = body["generation_settings"]["logit_bias"]
    assert biases == [{"bias": 1.5, "token": 7}, {"bias": None, "token": 2}, {"bias": None, "token": 262}]


def test_several_prompts_and_several_texts_each() -> None:
    response, service = request("/completion", {"prompt": ["Once", [5]], "n": 2, "seed": 3})
    assert [one["index"] for one in response.json()] == [0, 1, 2, 3]
    tasks = [task for task in service.tasks if isinstance(task, CompletionTask)]
    assert [task.sampler.seed for task in tasks] == [3, 4, 3, 4]
    assert tasks[0].prompt == tasks[1].prompt != tasks[2].prompt == (5,)


def test_what_texts_are_made_of_is_read_once() -> None:
    """However many are wanted: a client chooses both."""
    _, service = request("/completion", {"prompt": "x", "n": 3, "logit_bias": [["Once upon", 1]]})
    biases = [task.sampler.logit_bias for task in service.tasks if isinstance(task, CompletionTask)]
    assert len(biases) == 3
    assert biases[0]
    assert all(one is biases[0] for one in biases)


def test_only_the_fields_that_are_wanted() -> None:
    fields = ["content", "generation_settings/n_predict", "generation_settings/no", "no", "content/x", "stop_type"]
    body = request("/completion", {"prompt": "x", "n_predict": 3, "response_fields": fields})[0].json()
    assert body == {"content": " a\nb", "generation_settings/n_predict": 3, "stop_type": "word"}


def test_an_empty_list_of_tokens_is_answered_with_nothing() -> None:
    response, service = request("/completion", {"prompt": [[]]})
    assert (response.json()["content"], response.json()["stop_type"], service.tasks) == ("", "none", [])


def progressing(task: Task) -> list[Event | None]:
    return [PromptProgress(total=8, cache=2, processed=5, time_ms=1.5), *usual(task)]


def test_a_stream() -> None:
    body = {"prompt": "Once upon", "stream": True, "return_progress": True, "timings_per_token": True, "n_probs": 1}
    response, _ = request("/completion", body, progressing)
    progress, first, second, last = events(response)
    partial = {"index": 0, "stop": False, "id_slot": -1, "tokens_evaluated": 3}
    so_far = progress.pop("timings")
    assert (so_far["cache_n"], so_far["prompt_n"], so_far["prompt_ms"], so_far["predicted_n"]) == (2, 3, 1.5, 0)
    assert progress == {
        **partial,
        "content": "",
        "tokens": [],
        "tokens_predicted": 0,
        "prompt_progress": {"total": 8, "cache": 2, "processed": 5, "time_ms": 1.5},
    }
    assert first.pop("timings")["predicted_n"] == 1
    assert len(first.pop("completion_probabilities")) == 1
    assert first == {**partial, "content": " a", "tokens": [5], "tokens_predicted": 1}
    assert second["content"] == "\nb"
    assert (last["stop"], last["content"], last["tokens"], last["has_new_line"]) == (True, "", [], True)
    assert "completion_probabilities" not in last
    assert last["stop_type"] == "word"


def test_timings_are_absent_where_nobody_asked() -> None:
    first, *_ = events(request("/completion", {"prompt": "x", "stream": True})[0])
    assert set(first) == {"index", "content", "tokens", "stop", "id_slot", "tokens_predicted", "tokens_evaluated"}


def test_openais_form() -> None:
    body = {"model": "gpt", "prompt": ["Once", "upon"], "n": 2, "max_tokens": 9, "logprobs": 1}
    response, service = request("/v1/completions", body)
    answer = response.json()
    assert answer["object"] == "text_completion"
    assert answer["model"] == "fake"
    assert answer["system_fingerprint"].startswith("b")
    assert [(one["index"], one["text"], one["finish_reason"]) for one in answer["choices"]] == [
        (i, " a\nb", "stop") for i in range(4)
    ]
    assert answer["choices"][0]["logprobs"]["token_logprobs"] == [-0.5, -0.5]
    n_prompt = sum(len(task.prompt) for task in service.tasks[::2] if isinstance(task, CompletionTask))
    assert answer["usage"] == {
        "completion_tokens": 8,
        "prompt_tokens": n_prompt,
        "total_tokens": n_prompt + 8,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert answer["timings"]["cache_n"] == 2


def test_openais_stream() -> None:
    first, second, last, done = events(request("/v1/completions", {"prompt": "Once", "stream": True})[0])
    assert first["choices"] == [{"text": " a", "index": 0, "logprobs": None, "finish_reason": None}]
    assert second["choices"][0]["text"] == "\nb"
    assert not {"usage", "timings"} & set(first)
    assert last["choices"] == [{"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}]
    assert last["usage"]["completion_tokens"] == 2
    assert last["timings"]["predicted_n"] == 2
    assert len({chunk["id"] for chunk in (first, second, last)}) == 1
    assert done == "data: [DONE]"


def test_openais_stream_of_several_with_usage() -> None:
    body = {"prompt": "Once", "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, done = events(request("/v1/completions", body)[0])
    assert done == "data: [DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4
    assert not any("usage" in chunk for chunk in chunks)
    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(one["text"] for one in own) == " a\nb"
        assert [one["finish_reason"] for one in own] == [None, None, "stop"]


@pytest.mark.parametrize("stream", [False, True])
def test_echo(stream: bool) -> None:
    response, _ = request("/v1/completions", {"prompt": ["Once", [5, 6]], "echo": True, "stream": stream})
    if stream:
        texts = ["", ""]
        for chunk in events(response)[:-1]:
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    else:
        texts = [choice["text"] for choice in response.json()["choices"]]
    assert texts[0] == "Once a\nb"
    assert texts[1].endswith(" a\nb")
    assert len(texts[1]) > len(" a\nb")


def test_an_end_by_length() -> None:
    def script(task: Task) -> Iterable[Event | None]:
        return [piece("x", 5), finished(Stop.LIMIT)]

    assert request("/v1/completions", {"prompt": "x"}, script)[0].json()["choices"][0]["finish_reason"] == "length"
    assert request("/completion", {"prompt": "x"}, script)[0].json()["stop_type"] == "limit"


@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_token_has_its_own_status(path: str, stream: bool) -> None:
    response, _ = request(path, {"prompt": "x", "stream": stream}, lambda task: [Failed(context_exceeded(900, 512))])
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["n_prompt_tokens"], error["n_ctx"]) == ("exceed_context_size_error", 900, 512)


def test_a_failure_later_ends_the_stream() -> None:
    response, _ = request(
        "/v1/completions", {"prompt": "x", "stream": True}, lambda task: [piece("a"), Failed(server_error("broken"))]
    )
    assert response.status_code == 200
    assert events(response)[-1] == {"error": {"code": 500, "message": "broken", "type": "server_error"}}


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/completion", {}, "prompt"),
        ("/completion", {"prompt": None}, "prompt"),
        ("/completion", {"prompt": "x", "temperature": "hot"}, "temperature"),
        ("/completion", {"prompt": "x", "lora": [{"id": 0, "scale": 1}]}, "lora"),
        ("/completion", {"prompt": "x", "n": 700}, "n"),
        ("/completion", {"prompt": ["x"] * 600}, "prompt"),
        ("/completion", {"prompt": "x", "grammar": "bad"}, "grammar"),
        ("/completion", {"prompt": "x", "stream_options": {"include_usage": 3}}, "include_usage"),
        ("/v1/completions", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("/v1/completions", {"prompt": "x", "best_of": 3}, "best_of"),
        ("/v1/completions", {"prompt": "x", "echo": True, "logprobs": 2}, "echo"),
        ("/v1/completions", {"prompt": "x", "model": 5}, "model"),
    ],
)
def test_wrong_requests_are_told_the_field(path: str, body: Any, words: str) -> None:
    response, service = request(path, body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["type"]) == (400, "invalid_request_error")
    assert words in error["message"]
    assert service.tasks == []


def test_text_that_is_no_unicode_is_answered() -> None:
    response, _ = request("/completion", {"prompt": "\ud800 x", "stop": ["\udfff"]})
    assert response.status_code == 200
    assert response.json()["generation_settings"]["stop"] == ["?"]
