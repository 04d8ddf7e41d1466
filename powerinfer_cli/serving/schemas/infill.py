"""What /infill takes, and the prompt that it becomes: a text with a gap, and what else is in its repository."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from powerinfer_cli.serving.errors import not_supported
from powerinfer_cli.serving.prompts import tokenize_mixed
from powerinfer_cli.text import Tokenizer

from .fields import RequestFields
from .sampling import SamplingFields

__all__ = ["InfillRequest", "check_infill", "infill_prompt"]

# llama-server's words around files where a vocabulary has no token for them, and names that clients do not send.
_SNIPPET = "\n\n--- snippet ---\n\n"
_REPOSITORY, _FILE, _OTHER_FILE = "myproject", "filename", "tmp"

Part = str | Annotated[list[str | int], Field(fail_fast=True)]  # an error for each of millions would take minutes


class Chunk(RequestFields):
    """Another text of the same repository."""

    text: str
    filename: str | None = None


def _given(value: Any) -> Any:
    return [] if value is None else value


class InfillRequest(SamplingFields):
    """A text with a gap. prompt: how the gap begins."""

    input_prefix: Part
    input_suffix: Part
    input_extra: Annotated[list[Chunk], BeforeValidator(_given)] = Field(default_factory=list, max_length=4096)
    prompt: str | None = None


def check_infill(tokenizer: Tokenizer) -> None:
    """APIError 501 for a model that was not trained to fill gaps."""
    fill = tokenizer.fill
    parts = {"prefix": fill.prefix, "suffix": fill.suffix, "middle": fill.middle}
    missing = [f"{name} token is missing. " for name, token in parts.items() if token is None]
    if missing:
        raise not_supported(f"Infill is not supported by this model: {''.join(missing)}")


def infill_prompt(
    request: InfillRequest, tokenizer: Tokenizer, *, n_ctx: int, n_batch: int, n_predict: int
) -> list[int]:
    """[repository, files ...] BOS prefix-token prefix prompt suffix-token suffix middle-token.

    The prefix keeps its end, of three quarters of a batch, the suffix its beginning, of one; other files their end, of
    what is then left of the context.
    """
    fill = tokenizer.fill
    assert fill.prefix is not None  # check_infill has seen to that
    assert fill.suffix is not None
    assert fill.middle is not None
    prompt = tokenizer.encode(request.prompt or "", add_special=False)
    prefix = _last(_tokens(request.input_prefix, tokenizer, "input_prefix"), 3 * (n_batch // 4))
    suffix = _tokens(request.input_suffix, tokenizer, "input_suffix")[: max(0, n_batch // 4 - (2 + len(prompt)))]
    extra = _last(_extra(request.input_extra, tokenizer), max(0, n_ctx - n_batch - 2 * n_predict))
    bos = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    return [*extra, *bos, fill.prefix, *prefix, *prompt, fill.suffix, *suffix, fill.middle]


def _tokens(value: Part, tokenizer: Tokenizer, field: str) -> tuple[int, ...]:
    return tokenize_mixed(value, tokenizer, add_special=False, parse_special=False, field=field)


def _last(ids: Sequence[int], most: int) -> Sequence[int]:
    return ids[max(0, len(ids) - most) :]


def _extra(chunks: Sequence[Chunk], tokenizer: Tokenizer) -> list[int]:
    """The repository and its other files, up to where the file with the gap begins."""

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special=False, parse_special=False)

    fill = tokenizer.fill
    ids = [] if fill.repository is None else [fill.repository, *encode(f"{_REPOSITORY}\n")]
    for chunk in chunks:
        if fill.file is None:
            ids += encode(_SNIPPET)
        else:
            ids += (fill.file, *encode(f"{chunk.filename or _OTHER_FILE}\n"))
        ids += encode(chunk.text)
    if fill.file is not None:
        ids += (fill.file, *encode(f"{_FILE}\n"))
    return ids
