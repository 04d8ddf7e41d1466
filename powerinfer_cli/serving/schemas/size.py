"""What a request may not ask for: an answer that is so large that it takes the server's memory, and others' time."""

from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import CompletionTask

__all__ = ["check_size"]

_MOST_CHANCES = 1 << 21  # some hundred bytes each, which wait until the answer is sent
_USUAL_PROBS = 20  # OpenAI's most, which clients ask for without a thought of how long the text may become
_MOST_BIASES = 1 << 18  # told with every text; every token of a large vocabulary, for one


def check_size(task: CompletionTask, n_tasks: int, service: Service, field: str = "n_probs") -> None:
    """APIError 400 for tasks like this one, n_tasks of them, that would tell too much. field: what n_probs is called.

    Of a text whose length is not limited, as many tokens count as a slot holds.
    """
    n_biases = len(task.sampler.logit_bias)
    if n_biases * n_tasks > max(_MOST_BIASES, n_biases):
        raise invalid_request(
            f"Field 'logit_bias': {n_biases} tokens are too many for {n_tasks} texts: "
            f"both multiplied must be at most {_MOST_BIASES}"
        )
    n_probs, n_ctx = min(task.n_probs, service.model.tokenizer.vocab_size), service.model.n_ctx_slot
    longer = task.n_predict >= n_ctx and service.options.context_shift
    n_tokens = task.n_predict if 0 <= task.n_predict < n_ctx or longer else n_ctx
    if n_probs > _USUAL_PROBS and n_probs * n_tokens * n_tasks > _MOST_CHANCES:
        raise invalid_request(
            f"Field '{field}': {n_probs} for each of {n_tokens * n_tasks} tokens that may be written is too much: "
            f"both multiplied must be at most {_MOST_CHANCES}; ask for fewer, or limit n_predict"
        )
