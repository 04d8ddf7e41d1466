"""How to run a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from powerinfer_cli.errors import UsageError
from powerinfer_cli.runtime.threads import default_threads

__all__ = ["CACHE_TYPES", "OF_DRAFT", "EngineOptions", "LoadEvents"]

CACHE_TYPES = ("f32", "f16", "q8_0")
OF_DRAFT = " of the draft model"  # with this ends what is told of another model than the one that writes

Progress: TypeAlias = Callable[[str, int, int], None]


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class LoadEvents:
    """Whom to tell what happens while a model loads: remarks, one line each; and progress (what, done, of how much)."""

    note: Callable[[str], None] = _nothing
    progress: Progress = _nothing


@dataclass(frozen=True)
class EngineOptions:
    """What somebody wishes of how a model runs.

    n_ctx 0: the training context, or what fits half of the free memory. n_batch: tokens between two reports of
    progress; n_ubatch: tokens evaluated at a time. n_threads None: one per physical core; n_threads_batch None: as
    n_threads. type_k, type_v: of the KV cache. repack False: weights stay as they are in the mapped file, which saves
    memory and costs speed. mlock: keep weights from being paged out. cores: where each thread may run, empty for
    anywhere. all_active: ask no predictor, compute every neuron. reference: plain float32 arithmetic in torch, slow,
    to compare with; `resident` then says whether float32 copies of weights are kept (None: if memory allows).
    n_sequences: texts that are evaluated side by side, as a server's slots are; the context is divided among them, or,
    `unified`, is for whoever needs it. swa_full: layers with a window keep everything, so that a text can be gone on
    with from any of its tokens; else no more than the window needs. drafting: several tokens of a text may come
    stepwise. ctx_checkpoints: states of recurrent layers that are saved of a text, at most; checkpoint_min_step: tokens
    from one to the next within a prompt.
    """

    n_ctx: int = 0
    n_batch: int = 2048
    n_ubatch: int = 512
    n_threads: int | None = None
    n_threads_batch: int | None = None
    type_k: str = "f16"
    type_v: str = "f16"
    repack: bool = True
    mlock: bool = False
    cores: tuple[frozenset[int], ...] = ()
    all_active: bool = False
    reference: bool = False
    resident: bool | None = None
    n_sequences: int = 1
    unified: bool = False
    swa_full: bool = False
    drafting: bool = False
    ctx_checkpoints: int = 32
    checkpoint_min_step: int = 8192

    def __post_init__(self) -> None:
        """Raises UsageError: numbers that make no sense."""
        least = {"n_ctx": 0, "n_batch": 1, "n_ubatch": 1, "n_threads": 1, "n_threads_batch": 1, "n_sequences": 1}
        least |= {"ctx_checkpoints": 0, "checkpoint_min_step": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise UsageError(f"{name} is {value}, but must be at least {low}")
        for name in ("type_k", "type_v"):
            if getattr(self, name) not in CACHE_TYPES:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be one of {', '.join(CACHE_TYPES)}")

    @property
    def threads(self) -> tuple[int, int]:
        """How many compute a single token, and how many a batch."""
        one = self.n_threads or default_threads(self.cores)
        return one, self.n_threads_batch or one

    def few_tokens(self, n_ctx: int, most: int) -> int:
        """Of a batch whose tokens each get what they would get alone: `most` of a text, or one of each."""
        return min(most if self.drafting else self.n_sequences, most, self.most_tokens(n_ctx))

    def most_tokens(self, n_ctx: int) -> int:
        """Of a batch, in a context of n_ctx tokens."""
        return max(1, min(self.n_batch, self.n_ubatch, n_ctx))
