"""Text to tokens and back."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.service import Service
from powerinfer_cli.text import Tokenizer

__all__ = ["router"]

router = APIRouter(tags=["tokens"])

LONG = 4096  # characters that are worth a thread


class TokenizeRequest(BaseModel):
    """content: text, a token, or a list that mixes both."""

    model_config = ConfigDict(title="Tokenize")

    content: StrictStr | StrictInt | Annotated[list[StrictStr | StrictInt], Field(fail_fast=True)] = ""
    add_special: StrictBool = Field(False, description="Put BOS and the like where the model wants them.")
    parse_special: StrictBool = Field(True, description="Texts of control tokens become those tokens.")
    with_pieces: StrictBool = Field(False, description="Tell each token's text too.")


class DetokenizeRequest(BaseModel):
    model_config = ConfigDict(title="Detokenize")

    tokens: Annotated[list[StrictInt], Field(fail_fast=True)] = Field(default_factory=list)


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """The tokens of a text."""
    service: Service = request.app.state.service
    tokenizer = service.model.tokenizer
    parts = body.content if isinstance(body.content, list) else [body.content]
    if sum(len(part) for part in parts if isinstance(part, str)) > LONG:
        ids = await run_in_threadpool(_tokens, parts, body, tokenizer)
    else:
        ids = _tokens(parts, body, tokenizer)
    return Answer({"tokens": [_with_piece(i, tokenizer) for i in ids] if body.with_pieces else ids})


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """The text of tokens."""
    service: Service = request.app.state.service
    tokenizer = service.model.tokenizer
    for token in body.tokens:
        _check(token, tokenizer, "tokens")
    return Answer({"content": tokenizer.decode_bytes(body.tokens).decode("utf-8", "replace")})


def _tokens(parts: list[str | int], body: TokenizeRequest, tokenizer: Tokenizer) -> list[int]:
    ids: list[int] = []
    for index, part in enumerate(parts):
        if isinstance(part, int):
            ids.append(_check(part, tokenizer, "content"))
        else:
            ids += tokenizer.encode(part, body.add_special and index == 0, body.parse_special)
    return ids


def _check(token: int, tokenizer: Tokenizer, field: str) -> int:
    if not 0 <= token < tokenizer.vocab_size:
        raise invalid_request(f'"{field}": {token} is no token of the vocabulary of {tokenizer.vocab_size}')
    return token


def _with_piece(token: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """Its text, or its bytes where they are none."""
    piece = tokenizer.piece(token, special=True)
    try:
        return {"id": token, "piece": piece.decode()}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(piece)}
