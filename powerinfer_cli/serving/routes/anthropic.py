"""Chats, as Anthropic's clients have them."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from powerinfer_cli.serving.answers.anthropic import MessagesAnswer, messages_error
from powerinfer_cli.serving.chat.anthropic import as_chat
from powerinfer_cli.serving.chat.messages import UnsupportedPart
from powerinfer_cli.serving.chat.plan import count_prompt, plan_chat
from powerinfer_cli.serving.errors import server_error
from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.http.json_text import TextRoute
from powerinfer_cli.serving.http.replies import collect
from powerinfer_cli.serving.http.sse import event_stream
from powerinfer_cli.serving.schemas.anthropic import MessagesRequest

__all__ = ["router"]

router = APIRouter(tags=["anthropic"], route_class=TextRoute)


@router.post("/v1/messages")
async def messages(body: MessagesRequest, request: Request) -> Response:
    """Answer a conversation, with text or with uses of tools."""
    service = request.app.state.service
    try:
        plan = await plan_chat(as_chat(body), service)
    except UnsupportedPart as error:
        raise server_error(error.message) from error  # the status that llama-server has for it here
    answer = MessagesAnswer(plan, service.model.name)
    if body.stream:
        return await event_stream(request.receive, service, plan.tasks, answer.write, error=messages_error)
    [outcome] = await collect(service, plan.tasks)
    return Answer(answer.whole(outcome))


@router.post("/v1/messages/count_tokens")
async def count_tokens(body: MessagesRequest, request: Request) -> Response:
    """How many tokens the prompt of a conversation has."""
    service = request.app.state.service
    try:
        n_tokens = await count_prompt(as_chat(body), service)
    except UnsupportedPart as error:
        raise server_error(error.message) from error
    return Answer({"input_tokens": n_tokens})
