"""Answers that would be too large are refused before anything is computed."""

from typing import Any

import pytest

from powerinfer_cli.serving.options import ServerOptions
from tests.serving.chat.fake_chat import ChatModel
from tests.serving.fake_service import bundled_tokenizer, finished, post

N_VOCAB = bundled_tokenizer().vocab_size
BIASES = [[token, 0.5] for token in range(2000)]


def ask(path: str, n_ctx_slot: int = 131072, options: ServerOptions | None = None, **fields: Any) -> tuple[int, str]:
    """The status, and what is wrong."""
    prompt = {"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"prompt": "x"}
    answer, service = post(
        path,
        {**prompt, **fields},
        lambda task: [finished()],
        model=ChatModel(n_ctx_slot=n_ctx_slot),
        options=options or ServerOptions(),
        most=600,
    )
    assert bool(service.tasks) == (answer.status_code == 200)
    return answer.status_code, answer.json()["error"]["message"] if answer.status_code != 200 else ""


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        ("/completion", {"n_probs": 10**9, "n_predict": 4096}, "n_probs"),
        ("/completion", {"n_probs": 1000}, "n_probs"),
        ("/completion", {"n_probs": 1000, "n_predict": 10**6}, "n_probs"),
        ("/completion", {"n_probs": N_VOCAB, "n_predict": 2, "n": 500}, "n_probs"),
        ("/v1/completions", {"logprobs": 10**9, "max_tokens": 4096}, "logprobs"),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 10**6}, "top_logprobs"),
        ("/completion", {"n_probs": 20, "n": 500, "n_predict": 1000}, "n_probs"),
        ("/completion", {"n_probs": 20, "n": 9}, "n_probs"),
        ("/v1/chat/completions", {"logprobs": True, "n": 500}, "top_logprobs"),
        ("/completion", {"n_probs": 1000, "n_predict": 42, "prompt": ["x"] * 7}, "n_probs"),
        ("/completion", {"n": 500, "stop": ["x" * 60_000]}, "stop"),
        ("/completion", {"stop": ["x" * 60_000, "y" * 6_000]}, "stop"),
        ("/completion", {"n": 500, "grammar": 'root ::= "a"' + " " * 20_000}, "grammar"),
        ("/completion", {"prompt": ["x"] * 500, "grammar": 'root ::= "a"' + " " * 20_000}, "grammar"),
        ("/completion", {"n": 500, "dry_sequence_breakers": ["x" * 600] * 64}, "dry_sequence_breakers"),
        ("/completion", {"n": 500, "prompt": "x " * 6_000}, "prompt"),
        ("/v1/chat/completions", {"n": 500, "stop": ["x" * 60_000]}, "stop"),
        ("/completion", {"n": 500, "logit_bias": BIASES}, "logit_bias"),
        ("/completion", {"prompt": ["x"] * 500, "logit_bias": BIASES}, "logit_bias"),
    ],
)
def test_too_much_is_refused(path: str, fields: dict[str, Any], field: str) -> None:
    status, message = ask(path, **fields)
    assert status == 400
    assert message.startswith(f"Field '{field}': ")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/completion", {"n_probs": 10, "n_predict": -1}),
        ("/completion", {"n_probs": 10**9, "n_predict": 1}),
        ("/completion", {"n_probs": 10**9, "n_predict": 90}),
        ("/completion", {"n_probs": 20, "n": 8}),
        ("/v1/completions", {"logprobs": 5, "prompt": ["x"] * 500, "max_tokens": 16}),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 20, "n": 8}),
        ("/completion", {"n": 8, "prompt": "x " * 100_000, "stop": ["###", "</s>", "User:"]}),
        ("/completion", {"prompt": ["x " * 10_000] * 80}),
        ("/completion", {"grammar": 'root ::= "a"' + " " * 1_000_000, "n": 8}),
        ("/v1/completions", {"logprobs": 5, "n": 4}),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 20}),
        ("/v1/chat/completions", {"logprobs": True}),
        ("/completion", {"logit_bias": [[token, 1] for token in range(N_VOCAB)], "n": 8}),
    ],
)
def test_usual_requests_pass(path: str, fields: dict[str, Any]) -> None:
    assert ask(path, **fields) == (200, "")


def test_a_text_is_as_long_as_its_slot_unless_the_context_shifts() -> None:
    fields = {"n_probs": 500, "n_predict": 10**6}
    assert ask("/completion", 512, **fields)[0] == 200
    assert ask("/completion", 512, ServerOptions(context_shift=True), **fields)[0] == 400
