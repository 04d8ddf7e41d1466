"""A request to what is asked of the engine's thread, and how its text is to be read."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from powerinfer_cli.rendering.cancelling import Cancellation, cancellation
from powerinfer_cli.sampling.grammars.grammar import Constraint, GrammarError
from powerinfer_cli.sampling.grammars.json_schema import ANY_OBJECT, read_schema
from powerinfer_cli.serving.compiling import with_grammars
from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.schemas.chat import ChatRequest
from powerinfer_cli.serving.schemas.sampling import copies_of
from powerinfer_cli.serving.schemas.size import check_size
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import CompletionTask
from powerinfer_cli.text import Tokenizer
from powerinfer_cli.text.prompt_tails import prompt_tails

from .capabilities import capabilities_of
from .deltas import Delta
from .messages import Message, read_messages
from .parser import ParserOptions
from .prompt import ChatPrompt, Continuation, Conversation, write_prompt
from .reasoning import ThinkTags
from .tool_grammar import calls_grammar, schema_grammar
from .tool_styles import ToolStyle
from .tools import Choice, Tool, ToolChoice, read_tool_choice, read_tools

__all__ = ["ChatPlan", "count_prompt", "plan_chat", "plan_prompt"]

T = TypeVar("T")
NewConstraint = Callable[[], Constraint]
_FORMATS = ("none", "auto", "deepseek", "deepseek-legacy")


@dataclass(frozen=True)
class ChatPlan:
    """prompt: of all tasks. parser: how to read the text of each. begun: what of an answer is there already, and told
    all the same.
    """

    prompt: ChatPrompt
    tasks: Sequence[CompletionTask]
    parser: ParserOptions
    begun: tuple[Delta, ...] = ()


async def plan_chat(request: ChatRequest, service: Service, label: str = "chat") -> ChatPlan:
    """Away from the event loop: templates, tokenizers and grammars take their time. Raises APIError 400, and
    PowerInferError with a template's reason.
    """
    return await _in_thread(lambda: _plan(request, service, label))


async def plan_prompt(request: ChatRequest, service: Service) -> ChatPrompt:
    """The prompt alone."""
    return await _in_thread(lambda: _prompt(request, service))


async def count_prompt(request: ChatRequest, service: Service) -> int:
    """How many tokens the prompt has."""
    tokenizer = service.model.tokenizer
    return await _in_thread(lambda: len(tokenizer.encode(_prompt(request, service).text)))


async def _in_thread(work: Callable[[], T]) -> T:
    """Where this is cancelled, as when the client leaves, what is rendered meanwhile ends."""
    cancelling = Cancellation()

    def run() -> T:
        cancellation.set(cancelling)  # in the thread's own context
        return work()

    try:
        return await with_grammars(run)
    except asyncio.CancelledError:
        cancelling.cancel()
        raise


def _prompt(request: ChatRequest, service: Service) -> ChatPrompt:
    return write_prompt(service.model.template, _conversation(request, service))


def _plan(request: ChatRequest, service: Service, label: str) -> ChatPlan:
    model = service.model
    most = service.options.queue + model.n_slots
    if request.copies > most:
        raise invalid_request(f"Field 'n': must be at most {most}, got {request.copies}")
    n_probs = _probs(request)
    schema = _schema(request)
    conversation = _conversation(request, service, constrained=schema is not None)
    prompt = write_prompt(model.template, conversation)
    ids = tuple(model.tokenizer.encode(prompt.text))
    constraint = _constraint(service, prompt, conversation, schema)
    task = request.task(
        ids,
        service,
        n_probs=n_probs,
        constraint=constraint,
        preserved=_preserved(model.tokenizer, prompt),
        label=label,
    )
    task = replace(task, tails=prompt_tails(model.tokenizer, prompt.text, prompt.question, prompt.opening))
    name = "top_logprobs" if request.logprobs else "n_probs"
    check_size(task, [ids], request.copies, service, field=name, grammar=request.grammar)
    parser = _parser(request, service, prompt, conversation)
    # As llama-server has it: those who ask for a continuation know what it continues.
    told = not request.continue_final_message if request.echo is None else request.echo
    return ChatPlan(prompt, copies_of(task, request.copies), parser, prompt.begun if told else ())


def _probs(request: ChatRequest) -> int:
    if request.logprobs:
        if request.tools and request.stream:
            raise invalid_request("logprobs is not supported with tools + stream")
        return 20 if request.top_logprobs is None else request.top_logprobs
    if request.top_logprobs is not None:
        raise invalid_request("top_logprobs requires logprobs to be set to true")
    return request.n_probs or 0


def _schema(request: ChatRequest) -> dict[str, Any] | None:
    """What JSON the answer is to be, by `json_schema` or `response_format`; None for any text."""
    if request.json_schema is not None and request.grammar:
        raise invalid_request("Cannot use both json_schema and grammar")
    schema = request.json_schema
    wanted = request.response_format
    if wanted is not None:
        if wanted.type == "json_object":
            if wanted.schema_ is not None or not schema:
                schema = wanted.schema_ or {}
        elif wanted.type == "json_schema":
            inner = (wanted.json_schema or {}).get("schema", wanted.schema_)
            if inner is not None and not isinstance(inner, dict):
                raise invalid_request("Field 'response_format.json_schema.schema': must be an object")
            schema = inner or {}
        elif wanted.type not in (None, "", "text"):
            kinds = '"text", "json_object" or "json_schema"'
            raise invalid_request(f"response_format type must be one of {kinds}, but got: {wanted.type[:80]}")
    return {"type": "object"} if schema == {} else schema


def _conversation(request: ChatRequest, service: Service, *, constrained: bool = False) -> Conversation:
    """constrained: the answer's form is given, so it cannot have calls."""
    messages = read_messages(request.messages)
    tools = read_tools(request.tools)
    choice = read_tool_choice(request.tool_choice, tools)
    if tools and not service.options.jinja:
        raise invalid_request("tools param requires --jinja flag")
    if tools and choice.choice is not Choice.NONE and request.grammar:
        raise invalid_request("Cannot use custom grammar constraints with tools.")
    if constrained or request.parse_tool_calls is False:
        choice = ToolChoice(Choice.NONE)
    continuation, ask = _continuation(request, service.options, messages)
    parallel = request.parallel_tool_calls
    return Conversation(
        messages,
        tools,
        choice,
        parallel=capabilities_of(service.model.template).parallel if parallel is None else parallel,
        add_generation_prompt=ask,
        continuation=continuation,
        variables=_variables(request, service.options),
    )


def _continuation(
    request: ChatRequest, options: ServerOptions, messages: Sequence[Message]
) -> tuple[Continuation | None, bool]:
    """(what the answer continues, whether the prompt asks for a new one)."""
    asked = request.continue_final_message
    ask = request.add_generation_prompt is not False
    last = messages[-1] if messages else None
    wanted = last is not None and (asked is True or asked in list(Continuation))
    if not wanted and options.prefill_assistant and last is not None and last["role"] == "assistant":
        if len(messages) > 1 and messages[-2]["role"] == "assistant":
            raise invalid_request("Cannot have 2 or more assistant messages at the end of the list.")
        asked, wanted, ask = True, True, False
    if not wanted or last is None:
        return None, ask
    if ask:
        raise invalid_request("Cannot set both add_generation_prompt and continue_final_message to true.")
    if "tool_calls" in last:
        raise invalid_request("Cannot continue an assistant message that contains tool calls.")
    if asked is not True:
        return Continuation(asked), False
    only_thoughts = "reasoning_content" in last and not last["content"]
    return (Continuation.REASONING if only_thoughts else Continuation.CONTENT), False


def _variables(request: ChatRequest, options: ServerOptions) -> dict[str, Any]:
    variables = {**options.template_variables, **(request.chat_template_kwargs or {})}
    thinking = variables.get("enable_thinking")
    if isinstance(thinking, str):
        raise invalid_request('invalid type for "enable_thinking" (expected boolean, got string)')
    if request.reasoning_effort == "none":
        variables["enable_thinking"] = False
        variables.pop("reasoning_effort", None)
    elif request.reasoning_effort:
        variables["reasoning_effort"] = request.reasoning_effort
    return variables


def _constraint(
    service: Service, prompt: ChatPrompt, conversation: Conversation, schema: dict[str, Any] | None
) -> NewConstraint | None:
    """What the answer may be, where calls or JSON are wanted; a request's own grammar is its task's affair."""
    model = service.model
    thoughts = prompt.tags if prompt.may_think else None
    try:
        if schema is not None:
            if thoughts is None:
                return model.grammars.json_schema(schema)
            model.grammars.json_schema(schema)  # says best what is wrong
            lark = schema_grammar(read_schema(schema), model.tokenizer, thoughts, prompt.thinking)
            return model.grammars.lark(lark, "JSON schema")
        if prompt.style is not None:
            return _calls(service, prompt.style, conversation, thoughts, thinking=prompt.thinking)
    except (GrammarError, RecursionError) as error:
        raise invalid_request(f"Field '{'tools' if schema is None else 'json_schema'}': {error}") from error
    return None


def _calls(
    service: Service, style: ToolStyle, conversation: Conversation, thoughts: ThinkTags | None, *, thinking: bool
) -> NewConstraint:
    """Calls of tools whose arguments are held as far as they can be: one odd schema must not refuse them all."""
    grammars = service.model.grammars
    named = _callable(conversation)
    places = [f"tools[{i}].function.parameters" for i, tool in enumerate(conversation.tools) if tool in named]
    schemas = [grammars.mended_schema(tool.parameters, place) for tool, place in zip(named, places, strict=True)]

    def compiled(schemas: Sequence[str]) -> NewConstraint:
        lark = calls_grammar(
            style,
            [(tool.name, schema) for tool, schema in zip(named, schemas, strict=True)],
            service.model.tokenizer,
            required=conversation.choice.choice is Choice.REQUIRED,
            parallel=conversation.parallel,
            thoughts=thoughts,
            thinking=thinking,
        )
        return grammars.lark(lark, "grammar of the tools")

    try:
        return compiled(schemas)
    except GrammarError as error:
        grammars.warn(f"tools: together they are too much, so that arguments are any objects: {error}")
        return compiled([read_schema(ANY_OBJECT).text] * len(named))


def _callable(conversation: Conversation) -> list[Tool]:
    name = conversation.choice.name
    return [tool for tool in conversation.tools if name is None or tool.name == name]


def _parser(request: ChatRequest, service: Service, prompt: ChatPrompt, conversation: Conversation) -> ParserOptions:
    wanted = request.reasoning_format or service.options.reasoning_format
    if wanted not in _FORMATS:
        raise invalid_request(f"Unknown reasoning format: {wanted[:80]}")
    return ParserOptions(
        tags=prompt.tags,
        thinking=prompt.thinking,
        continued=bool(prompt.begun),
        inline=wanted == "none" or (wanted == "deepseek-legacy" and bool(request.stream)),
        style=prompt.style,
        known=frozenset(tool.name for tool in _callable(conversation)),
    )


def _preserved(tokenizer: Tokenizer, prompt: ChatPrompt) -> frozenset[int]:
    """The control tokens that the parser has to see."""
    texts = [prompt.tags.start, prompt.tags.end, *(prompt.style.markers if prompt.style else ())]
    found = (tokenizer.id_of(text) for text in texts)
    return frozenset(token for token in found if token is not None)
