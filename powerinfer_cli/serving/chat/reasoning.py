"""Thoughts: the tags around them, and whether a prompt has opened them already."""

from dataclasses import dataclass

__all__ = ["DEFAULT_TAGS", "ThinkTags", "is_open", "tags_of"]


@dataclass(frozen=True)
class ThinkTags:
    """The texts around thoughts; they stand at the beginning of an answer."""

    start: str
    end: str


DEFAULT_TAGS = ThinkTags("<think>", "</think>")
_KNOWN = (
    DEFAULT_TAGS,
    ThinkTags("<|START_THINKING|>", "<|END_THINKING|>"),
    ThinkTags("[THINK]", "[/THINK]"),
    ThinkTags("<seed:think>", "</seed:think>"),
    ThinkTags("<|inner_prefix|>", "<|inner_suffix|>"),
)


def tags_of(source: str) -> ThinkTags:
    """The tags that a template has; the usual ones where it has none."""
    return next((tags for tags in _KNOWN if tags.end in source or tags.start in source), DEFAULT_TAGS)


def is_open(generation_prompt: str, tags: ThinkTags) -> bool:
    """Whether an answer to this begins inside of thoughts."""
    return generation_prompt.rfind(tags.start) > generation_prompt.rfind(tags.end)
