"""A conversation to the prompt that the model continues."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from powerinfer_cli.json_text import read_json
from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.text import ChatTemplate
from powerinfer_cli.text.prompt_tails import behind, last_question
from powerinfer_cli.text.template_forms import fitted_messages, text_of, usual_variables

from .capabilities import Capabilities, capabilities_of
from .deltas import ContentDelta, Delta, ReasoningDelta
from .generic_prompt import describe_tools, without_calls
from .messages import Message
from .reasoning import ThinkTags, is_open, tags_of
from .tool_styles import GENERIC, ToolStyle
from .tools import Choice, Tool, ToolChoice

__all__ = ["ChatPrompt", "Continuation", "Conversation", "write_prompt"]


class Continuation(StrEnum):
    """Which part of the last message, the assistant's, the answer continues."""

    CONTENT = "content"
    REASONING = "reasoning_content"


@dataclass(frozen=True)
class Conversation:
    """continuation: the answer continues the last message. variables: for the template, enable_thinking and so on."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    choice: ToolChoice = field(default_factory=ToolChoice)
    parallel: bool = False
    add_generation_prompt: bool = True
    continuation: Continuation | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatPrompt:
    """text: with the template's control tokens as text. tags: of thoughts; thinking: the answer begins inside of
    them. may_think: the model may, for all that the template says. style: of calls, None where the answer is to have
    none. begun: what of the answer is there already. question: what the user said last; opening: what the prompt ends
    with beside the messages.
    """

    text: str
    tags: ThinkTags
    thinking: bool
    may_think: bool
    style: ToolStyle | None
    begun: tuple[Delta, ...] = ()
    question: str = ""
    opening: str = ""


def write_prompt(template: ChatTemplate, conversation: Conversation) -> ChatPrompt:
    """Raises PowerInferError with the template's reason, and APIError 400."""
    able = capabilities_of(template)
    tags = tags_of(template.source)
    style = able.style if _may_call(conversation, able) else None
    messages = list(conversation.messages)
    last = messages.pop() if conversation.continuation is not None and messages else None
    if style is GENERIC or not able.calls:
        messages = without_calls(messages)
    if style is GENERIC:
        messages = describe_tools(messages, conversation.tools, conversation.choice, conversation.parallel)
    if able.objects:
        messages = [_with_objects(message) for message in messages]
    messages = fitted_messages(template, messages)
    variables = _variables(conversation, able)
    ask = conversation.add_generation_prompt and conversation.continuation is None
    text = template.render(messages, add_generation_prompt=ask, **variables)
    generation_prompt = ""
    if last is not None or ask:
        other = template.render(messages, add_generation_prompt=not ask, **variables)
        generation_prompt = behind(text, other) if ask else behind(other, text)
    begun: tuple[Delta, ...] = ()
    if last is not None and conversation.continuation is not None:
        text, generation_prompt, begun = _continued(
            text, generation_prompt, last, conversation.continuation, tags, tags.start in template.source
        )
    thinking = is_open(generation_prompt, tags)
    thinks = tags.start in template.source and tags.end not in generation_prompt
    may_think = thinking or (thinks and bool(variables.get("enable_thinking")) and not begun)
    asked, opening = _whole(last_question(messages)), _whole(generation_prompt)
    return ChatPrompt(_whole(text), tags, thinking, may_think, style, begun, asked, opening)


def _may_call(conversation: Conversation, able: Capabilities) -> bool:
    """Is the answer to have calls?

    As llama-server has it, a template that knows no tools is told of them only if one must be called: clients such as
    Open WebUI offer dozens with every chat, and many thousands of tokens of them to a model that was not taught to.
    """
    if not conversation.tools or conversation.choice.choice is Choice.NONE:
        return False
    return able.style is not GENERIC or conversation.choice.choice is Choice.REQUIRED


def _continued(
    text: str, generation_prompt: str, last: Message, continuation: Continuation, tags: ThinkTags, thinks: bool
) -> tuple[str, str, tuple[Delta, ...]]:
    """(prompt, generation prompt, what of the answer is in these)."""
    opening = generation_prompt
    content = text_of(last["content"], "\n\n") if continuation is Continuation.CONTENT else ""
    thoughts = last.get("reasoning_content", "")
    if thinks and (thoughts or tags.start in opening or continuation is Continuation.REASONING):
        opening = opening.split(tags.start)[0] + f"{tags.start}\n{thoughts}"
        if continuation is Continuation.CONTENT:
            opening += f"\n{tags.end}\n\n"
    else:
        thoughts = ""
    opening += content
    begun: list[Delta] = [ReasoningDelta(thoughts)] if thoughts else []
    return text + opening, opening, (*begun, *([ContentDelta(content)] if content else []))


def _with_objects(message: Message) -> Message:
    """A message whose calls have their arguments as objects."""
    if "tool_calls" not in message:
        return message
    return {**message, "tool_calls": [_with_object(call) for call in message["tool_calls"]]}


def _with_object(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = read_json(function["arguments"] or "{}")
    except (ValueError, RecursionError) as error:
        raise invalid_request(f"Failed to parse tool call arguments as JSON: {error}") from error
    return {**call, "function": {**function, "arguments": arguments}}


def _variables(conversation: Conversation, able: Capabilities) -> dict[str, Any]:
    shown = [] if able.style is GENERIC else [tool.as_json() for tool in conversation.tools]
    variables = {**usual_variables(), **conversation.variables}
    if "tools" not in variables:
        variables["tools"] = shown or able.forms.no_tools
    variables.pop("messages", None)
    variables.pop("add_generation_prompt", None)
    return variables


def _whole(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
