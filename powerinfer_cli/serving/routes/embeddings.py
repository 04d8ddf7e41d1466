"""Vectors of texts: llama-server's /embedding and OpenAI's /v1/embeddings."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from powerinfer_cli.serving.answers.embeddings import finished, native_embeddings, openai_embeddings
from powerinfer_cli.serving.errors import invalid_request, not_supported
from powerinfer_cli.serving.http.json_text import TextRoute
from powerinfer_cli.serving.http.parts import answer_in_parts
from powerinfer_cli.serving.http.replies import Outcome, collect_by_turns
from powerinfer_cli.serving.schemas.embeddings import EmbeddingRequest, embedding_tasks, pooling_of, room_for
from powerinfer_cli.serving.service import Service

__all__ = ["router"]

router = APIRouter(tags=["embeddings"], route_class=TextRoute)


@router.post("/embedding")
@router.post("/embeddings", include_in_schema=False)
async def embedding(body: EmbeddingRequest, request: Request) -> Response:
    """Vectors in llama-server's own form; of every token where the server does not pool."""
    return await _answer(body, request, openai=False)


@router.post("/v1/embeddings")
async def text_embedding(body: EmbeddingRequest, request: Request) -> Response:
    """Vectors in OpenAI's form, or in llama-server's for `content`."""
    return await _answer(body, request, openai=True)


async def _answer(body: EmbeddingRequest, request: Request, *, openai: bool) -> Response:
    service: Service = request.app.state.service
    if not service.options.embedding and service.model.config.writes:
        raise not_supported("This server does not support embeddings. Start it with `--embeddings`")
    pooling = pooling_of(service)
    if openai and pooling == "none":
        raise invalid_request("Pooling type 'none' is not OAI compatible. Please use a different pooling type")
    tasks = await embedding_tasks(body, service)
    outcomes = await collect_by_turns(service, tasks, room_for(service))
    n_tokens = sum(len(task.prompt) for task in tasks)
    openai = openai and "input" in body.model_fields_set
    told = _body(body, outcomes, n_tokens, pooling, service.model.name if openai else None)
    return await answer_in_parts(told, large=True)  # vectors are some thousand digits each


def _body(
    body: EmbeddingRequest, outcomes: list[Outcome], n_tokens: int, pooling: str, openai_model: str | None
) -> Any:
    kind = 2 if body.embd_normalize is None else body.embd_normalize
    rows = [one.vectors.rows for one in outcomes if one.vectors is not None]
    vectors = [finished(one, pooling, kind, body.dimensions) for one in rows]
    if openai_model is None:
        return native_embeddings(vectors)
    as_base64 = body.encoding_format == "base64"
    return openai_embeddings(vectors, n_tokens, body.model or openai_model, as_base64=as_base64)
