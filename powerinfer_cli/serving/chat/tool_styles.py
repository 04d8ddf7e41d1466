"""Data: how families of models write the calls of tools, and which template is whose."""

from dataclasses import dataclass

__all__ = ["GENERIC", "ToolStyle", "style_of"]


@dataclass(frozen=True)
class ToolStyle:
    """How calls are written.

    opener: the text before a call, or before the list of calls. closer: the text behind it, if any. padding: what
    stands between these and the call. bare: an answer may also begin with a call that has no opener. named: a call is
    a name, `name_end` and the arguments; otherwise it is an object, whose keys are `name_key` and `args_key`. listed:
    the objects are in one JSON array. separator: what stands between two calls. id_length: of the ids that the
    template takes; 0 for ids of ours.
    """

    name: str
    opener: str
    closer: str = ""
    padding: str = ""
    bare: bool = False
    named: bool = False
    name_end: str = ""
    name_key: str = "name"
    args_key: str = "arguments"
    listed: bool = False
    separator: str = ""
    id_length: int = 0

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that a vocabulary may have as control tokens."""
        return tuple(text for text in (self.opener, self.closer, self.name_end) if text)


HERMES = ToolStyle("hermes", "<tool_call>", "</tool_call>", padding="\n", separator="\n")
LLAMA3 = ToolStyle("llama3", "<|python_tag|>", bare=True, args_key="parameters", separator="; ")
MISTRAL = ToolStyle("mistral", "[TOOL_CALLS]", listed=True, separator=", ", id_length=9)
MISTRAL_NAMED = ToolStyle("mistral-named", "[TOOL_CALLS]", named=True, name_end="[ARGS]", id_length=9)
FUNCTIONARY = ToolStyle("functionary-v3.1", "<function=", "</function>", named=True, name_end=">")
COMMAND_R = ToolStyle(
    "command-r7b",
    "<|START_ACTION|>",
    "<|END_ACTION|>",
    name_key="tool_name",
    args_key="parameters",
    listed=True,
    separator=", ",
)
GENERIC = ToolStyle("generic", "")
"""For templates that know of no tools: the answer is one JSON object, which holds calls or the text."""

_SIGNS: tuple[tuple[tuple[str, ...], ToolStyle], ...] = (
    (("<parameter=",), GENERIC),  # arguments as XML, which is no style of ours; so are the next two
    (("<arg_key>",), GENERIC),
    (("<invoke name",), GENERIC),
    (("[TOOL_CALLS]", "[ARGS]"), MISTRAL_NAMED),
    (("[TOOL_CALLS]",), MISTRAL),
    (("<|START_ACTION|>",), COMMAND_R),
    (("<function=",), FUNCTIONARY),
    (("<tool_call>",), HERMES),
    (("<|python_tag|>",), LLAMA3),
    (("<|start_header_id|>", "ipython"), LLAMA3),
)
"""(texts that a template has, the style of its models); the first whose texts are all there counts."""


def style_of(source: str) -> ToolStyle:
    """The style of the models that a template is written for."""
    return next((style for signs, style in _SIGNS if all(sign in source for sign in signs)), GENERIC)
