"""What /embedding and OpenAI's /v1/embeddings take."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from powerinfer_cli.serving.errors import APIError, invalid_request, not_supported
from powerinfer_cli.serving.prompts import Prompt, is_costly, prompt_list, tokenize_prompts
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import EmbeddingTask
from powerinfer_cli.serving.threads import in_thread

from .fields import FromMinusOne, Natural, RequestFields

__all__ = ["EmbeddingRequest", "check_length", "embedding_tasks", "most_inputs", "pooling_of", "ranks", "room_for"]

_MOST_INPUTS = 2048
_MOST_NUMBERS = 1 << 24  # in one answer, 20 bytes each: of 4096 tokens and as many dimensions, for one


class EmbeddingRequest(RequestFields):
    """Texts whose vectors are wanted. content: input's name in llama-server's own form."""

    input: Prompt | None = None
    content: Prompt | None = None
    model: str | None = Field(None, description="any: one model is served")
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Natural | None = Field(None, description="of each vector, from its beginning; without: all")
    embd_normalize: FromMinusOne | None = Field(None, description="-1: not, 0: largest, 1: sum, 2: euclidean, else p")

    @property
    def texts(self) -> Any:
        """APIError 400 where there are none."""
        if "input" in self.model_fields_set:
            return self.input
        if "content" in self.model_fields_set:
            return self.content
        raise invalid_request('"input" or "content" must be provided')


def pooling_of(service: Service) -> str:
    """How a text's vectors become one: as the server was started, or as the model says, or not at all."""
    options = service.options
    wished = options.pooling or ("rank" if options.rerank else None)
    if wished == "rank" and not service.model.ranks:
        wished = None  # it was meant for others
    return wished or service.model.config.pooling or "none"


def ranks(service: Service) -> bool:
    """Whether texts are ranked here, instead of becoming vectors."""
    return pooling_of(service) == "rank"


def most_inputs(service: Service) -> int:
    """Texts of one request: as many as OpenAI takes, whatever the queue holds, to which they go by turns."""
    return max(_MOST_INPUTS, room_for(service))


def room_for(service: Service) -> int:
    """Texts that may be at work or wait."""
    return service.options.queue + service.model.n_slots


async def embedding_tasks(request: EmbeddingRequest, service: Service) -> list[EmbeddingTask]:
    """One for each text. Raises APIError."""
    n_embd = service.model.config.n_embd
    if request.dimensions is not None and not 0 < request.dimensions <= n_embd:
        raise invalid_request(f"Field 'dimensions': must be 1 to {n_embd}, got {request.dimensions}")
    texts = request.texts
    if is_costly(texts):
        return await in_thread(_tasks, texts, service)
    return _tasks(texts, service)


def _tasks(texts: Any, service: Service) -> list[EmbeddingTask]:
    model = service.model
    if ranks(service):
        raise not_supported("This server ranks texts: ask /rerank, or start it with another --pooling")
    value = [_joined(one) for one in prompt_list(texts)]
    # A list whose elements are tokens is one prompt: it must not become several.
    prompts = tokenize_prompts(value, model.tokenizer, most=most_inputs(service), field="input")
    for prompt in prompts:
        if not prompt:
            raise invalid_request("Input content cannot be empty")
        check_length(prompt, model.n_ctx_slot)
    pooling, n_numbers = pooling_of(service), sum(map(len, prompts)) * model.config.n_embd
    if pooling == "none" and n_numbers > _MOST_NUMBERS:
        raise invalid_request(
            f"Field 'input': vectors of all tokens are {n_numbers} numbers, which must be at most {_MOST_NUMBERS}; "
            "give fewer texts, or start the server with --pooling"
        )
    return [EmbeddingTask(prompt, pooling) for prompt in prompts]


def _joined(value: Any) -> Any:
    """Content parts, as in {"content": [{"type": "text", "text": ...}]}, as one text; anything else as it is."""
    if not isinstance(value, dict) or "content" not in value:
        return value
    if not isinstance(value["content"], list):
        raise invalid_request('"content" must be an array')
    return "".join(_part_text(part) for part in value["content"])


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("image_url", "input_audio", "input_video"):
        raise invalid_request(f"{str(kind).removeprefix('input_').removesuffix('_url')} input is not supported")
    if kind != "text" or not isinstance(part.get("text"), str):
        raise invalid_request('unsupported content[].type: must be {"type": "text", "text": string}')
    return str(part["text"])


def check_length(prompt: Sequence[int], n_ctx: int) -> None:
    """APIError 400 for one that is longer than a slot."""
    n_tokens = len(prompt)
    if n_tokens > n_ctx:
        raise APIError(
            400,
            "exceed_context_size_error",
            f"input ({n_tokens} tokens) is too large to process. increase the context size (current: {n_ctx} tokens)",
            extra={"n_prompt_tokens": n_tokens, "n_ctx": n_ctx},
        )
