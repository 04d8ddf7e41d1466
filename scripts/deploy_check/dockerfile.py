"""A Dockerfile's instructions, as far as a rehearsal without Docker needs them."""

import json
import re
from dataclasses import dataclass

__all__ = ["Instruction", "argument_defaults", "environment", "instructions", "list_of"]


@dataclass(frozen=True)
class Instruction:
    """One instruction: its keyword in capitals, its flags (`--mount=...`), and the rest as one text."""

    keyword: str
    flags: tuple[str, ...]
    text: str


def instructions(source: str) -> list[Instruction]:
    """The instructions in order; comments are gone, lines that go on are joined."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        keyword, _, rest = line.partition(" ")
        flags, text = [], rest.strip()
        while flag := re.match(r"--\S+\s+", text):
            flags.append(flag[0].strip())
            text = text[flag.end() :]
        found.append(Instruction(keyword.upper(), tuple(flags), re.sub(r"\s+", " ", text)))
    return found


def argument_defaults(found: list[Instruction]) -> dict[str, str]:
    """ARG: what `--build-arg` may set, and what it is otherwise."""
    pairs = (step.text.partition("=") for step in found if step.keyword == "ARG")
    return {name: value for name, _, value in pairs}


def environment(found: list[Instruction]) -> dict[str, str]:
    """ENV: variables of the running container."""
    words = (word for step in found if step.keyword == "ENV" for word in step.text.split())
    return dict(word.split("=", 1) for word in words)


def list_of(found: list[Instruction], keyword: str) -> list[str]:
    """The words of an instruction in exec form, as of ENTRYPOINT; of HEALTHCHECK those of its CMD."""
    (text,) = (step.text for step in found if step.keyword == keyword)
    words = json.loads(text.removeprefix("CMD").strip())
    return [str(word) for word in words]
