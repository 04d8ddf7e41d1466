"""Text to tokens and back."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from starlette.responses import Response

from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.http.bodies import Answer, json_bytes
from powerinfer_cli.serving.http.json_text import TextRoute
from powerinfer_cli.serving.prompts import check_texts, is_costly
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.threads import in_thread
from powerinfer_cli.text import Tokenizer

__all__ = ["router"]

router = APIRouter(tags=["tokens"], route_class=TextRoute)

AT_ONCE = 4096  # tokens that are told while all other threads wait


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
    return await _aside(body.content, _tokenized, body, tokenizer)


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """The text of tokens."""
    service: Service = request.app.state.service
    tokenizer = service.model.tokenizer
    return await _aside(body.tokens, _detokenized, body, tokenizer)


async def _aside(value: Any, work: Callable[[Any, Tokenizer], Response], body: Any, tokenizer: Tokenizer) -> Response:
    """In a thread where `value` is long."""
    return await in_thread(work, body, tokenizer) if is_costly(value) else work(body, tokenizer)


def _tokenized(body: TokenizeRequest, tokenizer: Tokenizer) -> Response:
    ids = _tokens(body.content if isinstance(body.content, list) else [body.content], body, tokenizer)
    told = []
    for at in range(0, len(ids), AT_ONCE):
        some = ids[at : at + AT_ONCE]
        told.append(json_bytes([_with_piece(i, tokenizer) for i in some] if body.with_pieces else some)[1:-1])
    return Response(b'{"tokens":[%s]}' % b",".join(told), media_type=Answer.media_type)


def _detokenized(body: DetokenizeRequest, tokenizer: Tokenizer) -> Response:
    for token in body.tokens:
        _check(token, tokenizer, "tokens")
    return Answer({"content": tokenizer.decode_bytes(body.tokens).decode("utf-8", "replace")})


def _tokens(parts: list[str | int], body: TokenizeRequest, tokenizer: Tokenizer) -> list[int]:
    check_texts(parts, "content")
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
