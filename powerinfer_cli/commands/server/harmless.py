"""Flags of llama-server that start scripts give, and that are right to have no effect here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["HARMLESS", "Harmless", "without_harmless"]


@dataclass(frozen=True)
class Harmless:
    """names: of one flag. value: it takes one; optional: if one follows that is in `only`. only: the values for which
    the reason holds, if not for all; others are refused. reason: why nothing is to be done.
    """

    names: tuple[str, ...]
    reason: str
    value: bool = False
    optional: bool = False
    only: tuple[str, ...] = ()


HARMLESS = (
    Harmless(("-fa", "--flash-attn"), "attention is always fused", optional=True, only=("on", "auto", "1", "true")),
    Harmless(("--no-mmap", "--mmap"), "weights are packed into memory, or mapped with --no-repack"),
    Harmless(("--offline",), "only -hf uses the network, and only for what is not there yet"),
    Harmless(("--cache-idle-slots", "--no-cache-idle-slots"), "idle slots keep their texts until others need the room"),
    Harmless(("--warmup", "--no-warmup"), "the engine is warm once it is loaded"),
    Harmless(("--threads-http",), "requests are handled in one event loop", value=True),
    Harmless(("-sm", "--split-mode"), "layers are what is divided among GPUs", value=True, only=("layer",)),
    Harmless(("--perf", "--no-perf"), "times are always measured"),
    Harmless(("-fit", "--fit"), "what a GPU holds always follows its budget", value=True, only=("on",)),
    Harmless(("--media-path",), "no supported model takes pictures or sounds", value=True),
    Harmless(("--no-mmproj", "--no-mmproj-auto"), "no projector is ever loaded"),
    Harmless(("--log-colors",), "the log has no colours", value=True, only=("off", "auto")),
    Harmless(("--check-tensors",), "what a file says of its tensors is always checked"),
    Harmless(("--cache-reuse",), "a prompt's common beginning is reused, and nothing behind it", value=True),
    Harmless(("-sps", "--slot-prompt-similarity"), "the slot with the longest common beginning is taken", value=True),
    Harmless(("-dt", "--defrag-thold"), "the cache is made of pages, and never in pieces", value=True),
    Harmless(("--poll",), "threads wait as long as is best for them", value=True),
    Harmless(("--prio",), "that is the usual priority", value=True, only=("0",)),
    Harmless(("-bs", "--backend-sampling", "--backend_sampling"), "where tokens are drawn does not change them"),
)


def without_harmless(args: Sequence[str], takes_value: frozenset[str]) -> tuple[list[str], list[str]]:
    """(the other words, a remark on each flag that was dropped). takes_value: flags whose next word is their value.

    Raises ValueError: a value for which the reason does not hold.
    """
    known = {name: one for one in HARMLESS for name in one.names}
    rest: list[str] = []
    remarks: list[str] = []
    words: Iterator[tuple[int, str]] = iter(enumerate(args))
    for index, word in words:
        name, equals, said = word.partition("=")
        one = known.get(name)
        if one is None:
            rest.append(word)
            if word in takes_value and index + 1 < len(args):
                rest.append(next(words)[1])
            continue
        follows = args[index + 1] if index + 1 < len(args) else None
        takes = not equals and follows is not None and (one.value or (one.optional and not follows.startswith("-")))
        value = said if equals else (follows if takes else None)
        if value is not None and one.only and value not in one.only:
            raise ValueError(f"{name} {value[:40]} is not supported: it must be {' or '.join(one.only)}")
        if takes:
            next(words)
        remarks.append(f"warning: {name} has no effect: {one.reason}")
    return rest, remarks
