"""Chats, as OpenAI's clients have them, and what becomes of their messages."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from powerinfer_cli.serving.answers.chat import ChatAnswer, Verbose
from powerinfer_cli.serving.answers.completion import NativeAnswer
from powerinfer_cli.serving.answers.whole import whole_answer
from powerinfer_cli.serving.chat.plan import ChatPlan, count_prompt, plan_chat, plan_prompt
from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.http.json_text import TextRoute
from powerinfer_cli.serving.http.replies import Outcome, collect
from powerinfer_cli.serving.http.sse import event_stream
from powerinfer_cli.serving.schemas.chat import ChatRequest
from powerinfer_cli.serving.schemas.completion import Job
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import Finished

__all__ = ["router"]

router = APIRouter(tags=["chat"], route_class=TextRoute)


@router.post("/v1/chat/completions")
@router.post("/chat/completions", include_in_schema=False)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation, with text or with calls of tools."""
    service = request.app.state.service
    plan = await plan_chat(body, service)
    answer = ChatAnswer(body, plan, service.model.name, _verbose(body, plan, service))
    if body.stream:
        return await event_stream(
            request.receive,
            service,
            plan.tasks,
            answer.write,
            end=answer.end,
            ping_s=body.ping_s,
        )
    return await whole_answer(answer.whole, await collect(service, plan.tasks))


def _verbose(body: ChatRequest, plan: ChatPlan, service: Service) -> Verbose | None:
    """llama-server's __verbose: the same as /completion would tell it."""
    if not (service.options.verbose if body.verbose is None else body.verbose):
        return None

    def tell(index: int, finished: Finished, outcome: Outcome) -> Any:
        native = NativeAnswer(body, Job([plan.tasks[index]]), service)
        return native.whole([replace(outcome, finished=finished)])

    return tell


@router.post("/v1/chat/completions/input_tokens")
@router.post("/chat/completions/input_tokens", include_in_schema=False)
async def count_tokens(body: ChatRequest, request: Request) -> Response:
    """How many tokens the prompt of a conversation has."""
    service = request.app.state.service
    n_tokens = await count_prompt(body, service)
    return Answer({"object": "response.input_tokens", "input_tokens": n_tokens})


@router.post("/apply-template")
async def apply_template(body: ChatRequest, request: Request) -> Response:
    """The prompt of a conversation."""
    prompt = await plan_prompt(body, request.app.state.service)
    return Answer({"prompt": prompt.text})
