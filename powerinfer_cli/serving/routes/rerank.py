"""Documents by how well they answer a query: llama-server's /rerank."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from powerinfer_cli.serving.answers.rerank import ranked
from powerinfer_cli.serving.http.json_text import TextRoute
from powerinfer_cli.serving.http.parts import answer_in_parts
from powerinfer_cli.serving.http.replies import collect_by_turns
from powerinfer_cli.serving.schemas.embeddings import room_for
from powerinfer_cli.serving.schemas.rerank import RerankRequest, rerank_tasks
from powerinfer_cli.serving.service import Service

__all__ = ["router"]

MANY = 1 << 10  # documents

router = APIRouter(tags=["embeddings"], route_class=TextRoute)


@router.post("/rerank")
@router.post("/reranking", include_in_schema=False)
@router.post("/v1/rerank", include_in_schema=False)
@router.post("/v1/reranking", include_in_schema=False)
async def rerank(body: RerankRequest, request: Request) -> Response:
    """The best documents first, with their scores."""
    service: Service = request.app.state.service
    tasks = await rerank_tasks(body, service)
    outcomes = await collect_by_turns(service, tasks, room_for(service))
    scores = [float(one.vectors.rows[0, 0]) for one in outcomes if one.vectors is not None]
    told: Any = ranked(
        scores,
        None if body.top_n is None else max(0, body.top_n),
        texts=body.pairs[1] if body.is_plain and body.return_text else None,
        plain=body.is_plain,
        model=body.model or service.model.name,
        n_tokens=sum(len(task.prompt) for task in tasks),
    )
    return await answer_in_parts(told, large=len(scores) > MANY)
