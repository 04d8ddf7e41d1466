"""What handlers ask of the engine's thread, and what it tells them. Ids and plain data only: no HTTP, no engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.sampling.grammars.grammar import Constraint
from powerinfer_cli.serving.errors import APIError

__all__ = [
    "CompletionTask",
    "EmbeddingTask",
    "Emit",
    "Event",
    "Failed",
    "Finished",
    "Likeliest",
    "PromptProgress",
    "SlotAction",
    "SlotContent",
    "SlotDone",
    "SlotTask",
    "Stop",
    "Task",
    "TextPiece",
    "Timings",
    "TokenChance",
    "TokenChances",
    "Vectors",
    "weight",
]


class Stop(StrEnum):
    """Why a completion ended, as llama-server's `stop_type` spells it."""

    END = "eos"
    LIMIT = "limit"
    WORD = "word"


class SlotAction(StrEnum):
    SAVE = "save"
    RESTORE = "restore"
    ERASE = "erase"


@dataclass(frozen=True)
class CompletionTask:
    """Tokens to continue.

    prompt: all ids, BOS included; not empty. tails: that from so many tokens before its end on others are likely to
    come instead, descending. n_predict: negative for no limit. n_keep: tokens of the prompt that stay
    when the context shifts, negative for all. stop: strings that end the text and are not part of it. n_probs: how
    many likeliest tokens to tell with each token; of what sampling left where post_sampling_probs. id_slot: the slot
    to use, -1 for any. t_max_predict_ms: time after the first token, and once a line has ended, that ends the text.
    constraint: makes a new state of what may be written, None for anything. special: control tokens are shown as text.
    strip_first_space: the text begins anew, so a vocabulary's leading space goes. preserved: ids of control tokens
    that are shown even so (those that open a tool call, say). draft_max,
    draft_min: tokens of a draft, None for the server's. label: what logs and /slots call it.
    """

    prompt: tuple[int, ...]
    sampler: SamplerOptions = field(default_factory=SamplerOptions)
    n_predict: int = -1
    n_keep: int = 0
    n_discard: int = 0
    stop: tuple[str, ...] = ()
    n_probs: int = 0
    post_sampling_probs: bool = False
    cache_prompt: bool = True
    id_slot: int = -1
    t_max_predict_ms: int = -1
    n_indent: int = 0
    constraint: Callable[[], Constraint] | None = None
    special: bool = False
    strip_first_space: bool = False
    preserved: frozenset[int] = frozenset()
    return_progress: bool = False
    draft_max: int | None = None
    draft_min: int | None = None
    tails: tuple[int, ...] = ()
    label: str = "completion"


@dataclass(frozen=True)
class EmbeddingTask:
    """Tokens whose vectors are wanted: hidden states behind the last norm. pooling: "none", "mean", "cls" or "last"; or
    "rank": scores are wanted instead.
    """

    prompt: tuple[int, ...]
    pooling: str = "none"
    label: str = "embedding"


@dataclass(frozen=True)
class SlotContent:
    """What a slot has read, as the engine's `save` gives it and its `restore` takes it."""

    ids: Sequence[int]
    arrays: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class SlotTask:
    """Save, restore or erase what a slot has read. Files are the handler's affair. content: to restore."""

    action: SlotAction
    id_slot: int
    content: SlotContent = SlotContent((), {})


Task: TypeAlias = CompletionTask | EmbeddingTask | SlotTask


@dataclass(frozen=True)
class Timings:
    """llama-server's `timings`. cache_n: prompt tokens that were there already; prompt_n: those that were read.

    draft_n: tokens that were proposed; draft_n_accepted: those of them that the text has.
    """

    cache_n: int
    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    draft_n: int = 0
    draft_n_accepted: int = 0


@dataclass(frozen=True)
class TokenChance:
    """One token: its bytes as text continues with them, and the natural logarithm of its probability."""

    id: int
    piece: bytes
    logprob: float


class Likeliest(Sequence[TokenChance]):
    """Chances as two arrays, which for a whole vocabulary are a hundredth of the size of as many objects."""

    def __init__(self, ids: npt.ArrayLike, logprobs: npt.ArrayLike, piece: Callable[[int], bytes]) -> None:
        """ids, logprobs: [n], likeliest first; they are copied. piece: a token's bytes as text continues with them."""
        self._ids, self._logprobs = np.array(ids, np.int32), np.array(logprobs, np.float64)
        self._piece = piece

    def __len__(self) -> int:
        return self._ids.size

    @overload
    def __getitem__(self, index: int) -> TokenChance: ...
    @overload
    def __getitem__(self, index: slice) -> "Likeliest": ...
    def __getitem__(self, index: int | slice) -> "TokenChance | Likeliest":
        if isinstance(index, slice):
            return Likeliest(self._ids[index], self._logprobs[index], self._piece)
        token = int(self._ids[index])
        return TokenChance(token, self._piece(token), float(self._logprobs[index]))


@dataclass(frozen=True)
class TokenChances:
    """The token that was chosen, and the likeliest at that place, likeliest first. After sampling: of what the
    sampler had left.
    """

    chosen: TokenChance
    top: Sequence[TokenChance]


@dataclass(frozen=True)
class PromptProgress:
    """Of a prompt of `total` tokens `cache` were there already, and `processed` (these included) are read by now."""

    total: int
    cache: int
    processed: int
    time_ms: float


@dataclass(frozen=True)
class TextPiece:
    """Text that is sure to stay, and the tokens that came with it; text may be empty, tokens may not fit it exactly."""

    text: str
    tokens: tuple[int, ...]
    chances: tuple[TokenChances, ...]
    timings: Timings


@dataclass(frozen=True)
class Finished:
    """The last event of a completion; all text was in pieces before. context_full: the limit was the context's.

    truncated: the context has shifted, or was full. tokens_cached: what the slot holds now.
    """

    stop: Stop
    stopping_word: str
    truncated: bool
    timings: Timings
    id_slot: int
    n_prompt: int
    tokens_cached: int
    seed: int


@dataclass(frozen=True)
class Vectors:
    """The last event of an embedding: [T, n_embd] float32, or what they were pooled to, [1, n_embd], or its scores."""

    rows: npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class SlotDone:
    """The last event of a slot's action. n_tokens: saved, restored or erased. content: what is to be saved."""

    id_slot: int
    n_tokens: int
    content: SlotContent | None = None


@dataclass(frozen=True)
class Failed:
    """The last event of anything that went wrong."""

    error: APIError


Event: TypeAlias = PromptProgress | TextPiece | Finished | Vectors | SlotDone | Failed


def weight(event: Event) -> int:
    """What it costs to hold an event, or to write it, where one without probabilities costs 1."""
    return 1 + sum(len(one.top) for one in event.chances) // 4 if isinstance(event, TextPiece) and event.chances else 1


# Called by the engine's thread, with the events of one step at a time; must return at once and never raise.
Emit: TypeAlias = Callable[[Sequence[Event]], None]
