"""Text to go on with: llama-server's /completion and OpenAI's /v1/completions."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from powerinfer_cli.serving.answers.completion import NativeAnswer
from powerinfer_cli.serving.answers.text_completion import TextCompletionAnswer
from powerinfer_cli.serving.answers.whole import whole_answer
from powerinfer_cli.serving.http.json_text import TextRoute
from powerinfer_cli.serving.http.replies import collect
from powerinfer_cli.serving.http.sse import event_stream
from powerinfer_cli.serving.schemas.completion import CompletionRequest, Job, TextCompletionRequest, prepare
from powerinfer_cli.serving.schemas.sampling import SamplingFields

__all__ = ["answer_natively", "router"]

router = APIRouter(tags=["completion"], route_class=TextRoute)


@router.post("/completion")
@router.post("/completions", include_in_schema=False)
async def completion(body: CompletionRequest, request: Request) -> Response:
    """Go on with a text, several texts, or tokens; in llama-server's own form."""
    return await answer_natively(request, body, await prepare(body, body.prompt, request.app.state.service))


async def answer_natively(request: Request, fields: SamplingFields, job: Job) -> Response:
    """Have the tasks done, and tell of them whole or as they come."""
    service = request.app.state.service
    answer = NativeAnswer(fields, job, service)
    if fields.stream:
        return await event_stream(request.receive, service, job.tasks, answer.write, ping_s=fields.ping_s)
    return await whole_answer(answer.whole, await collect(service, job.tasks))


@router.post("/v1/completions")
async def text_completion(body: TextCompletionRequest, request: Request) -> Response:
    """Go on with a text, several texts, or tokens; in OpenAI's form."""
    service = request.app.state.service
    body.check()
    job = await prepare(body, body.prompt, service)
    answer = TextCompletionAnswer(body, job, service)
    if body.stream:
        return await event_stream(request.receive, service, job.tasks, answer.write, end=answer.end, ping_s=body.ping_s)
    return await whole_answer(answer.whole, await collect(service, job.tasks))
