"""What --help shows: every name of every option in full, however narrow the terminal."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["help_page"]

NARROWEST, WIDEST = 30, 100  # columns
TWO_COLUMNS = 72  # from this width on, short names stand beside their explanation, which begins in column BESIDE
BESIDE, BENEATH = 28, 6
OPTIONS, ARGUMENTS = "Options", "Arguments"


def help_page(command: Any, context: Any, commands: Sequence[tuple[str, str]] = ()) -> str:
    """A click command's page. commands: names and summaries of a group's."""
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST) - 1
    usage = f"Usage: {context.command_path} {' '.join(command.collect_usage_pieces(context))}"
    parts = [usage, *(_prose(text, width) for text in (command.help or "").split("\n\n"))]
    for heading, entries in (("Commands", commands), *_sections(command, context)):
        if entries:
            lines = [f"{heading}:", *(line for entry in entries for line in _entry(*entry, width))]
            parts.append("\n".join(lines))
    if command.epilog:
        parts.append("\n".join(line for text in command.epilog.splitlines() for line in _example(text, width)))
    return "\n\n".join(parts)


def _sections(command: Any, context: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    """Names and explanations by panel; what has none comes last."""
    found: dict[str, list[tuple[str, str]]] = {ARGUMENTS: []}
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is not None:
            usual = ARGUMENTS if param.param_type_name == "argument" else OPTIONS
            found.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append(record)
    found[OPTIONS] = found.pop(OPTIONS, [])
    return list(found.items())


def _entry(names: str, explanation: str, width: int) -> Iterator[str]:
    head = _wrapped(names, width, "  ", "    ")
    indent = BESIDE if width >= TWO_COLUMNS else BENEATH
    body = _wrapped(" ".join(explanation.split()), width, " " * indent)
    if body and len(head) == 1 and len(head[0]) <= indent - 2:
        yield head[0].ljust(indent) + body.pop(0).lstrip()
    else:
        yield from head
    yield from body


def _example(line: str, width: int) -> Iterator[str]:
    """A line of an epilog. Commands are never broken, so that they can be copied; a remark goes beneath."""
    if len(line) <= width:
        yield line
    elif "powerinfer" not in line:
        yield from _wrapped(line, width)
    else:
        command, *remark = re.split(r"\s{2,}", line, maxsplit=1)
        yield command
        for text in remark:
            yield from _wrapped(text, width, "    ")


def _prose(text: str, width: int) -> str:
    return "\n".join(_wrapped(" ".join(text.split()), width))


def _wrapped(text: str, width: int, first: str = "", others: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=first if others is None else others,
        break_long_words=False,
        break_on_hyphens=False,
    )
