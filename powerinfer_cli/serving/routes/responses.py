"""Chats, as OpenAI's newer clients have them."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from powerinfer_cli.serving.answers.responses import ResponsesAnswer
from powerinfer_cli.serving.chat.plan import count_prompt, plan_chat
from powerinfer_cli.serving.chat.responses import as_chat
from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.http.json_text import TextRoute
from powerinfer_cli.serving.http.replies import collect
from powerinfer_cli.serving.http.sse import event_stream
from powerinfer_cli.serving.schemas.responses import ResponsesRequest

__all__ = ["router"]

router = APIRouter(tags=["chat"], route_class=TextRoute)


@router.post("/v1/responses")
@router.post("/responses", include_in_schema=False)
async def responses(body: ResponsesRequest, request: Request) -> Response:
    """Answer a conversation, with text or with calls of functions. Nothing is stored."""
    service = request.app.state.service
    if body.copies != 1:
        raise invalid_request("Field 'n': a response is one")
    plan = await plan_chat(as_chat(body), service, label="responses")
    answer = ResponsesAnswer(body, plan, service.model.name)
    if body.stream:
        return await event_stream(request.receive, service, plan.tasks, answer.write, ping_s=body.ping_s)
    [outcome] = await collect(service, plan.tasks)
    return Answer(answer.whole(outcome))


@router.post("/v1/responses/input_tokens")
@router.post("/responses/input_tokens", include_in_schema=False)
async def count_tokens(body: ResponsesRequest, request: Request) -> Response:
    """How many tokens the prompt of a conversation has."""
    service = request.app.state.service
    n_tokens = await count_prompt(as_chat(body), service)
    return Answer({"object": "response.input_tokens", "input_tokens": n_tokens})
