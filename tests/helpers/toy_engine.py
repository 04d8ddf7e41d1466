"""An engine without a model: what may come next is a function of a sequence's ids, whoever else is in the step."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime.context.pages import Extent, PageTable
from powerinfer_cli.runtime.stats import Drafted, LayerNeurons, SparsityStats
from powerinfer_cli.runtime.step import Piece, Wanted

N_EMBD = 4


@dataclass(frozen=True)
class ToyConfig:
    n_vocab: int = 2816
    n_ctx_train: int = 1 << 20
    sparse: bool = False
    causal: bool = True
    writes: bool = True


def random_logits(ids: Sequence[int], n_vocab: int) -> np.ndarray:
    """Different for each sequence of ids, the same on every run."""
    random = np.random.default_rng(zlib.crc32(np.asarray(ids, np.int32).tobytes()))
    return random.standard_normal(n_vocab, np.float32) * 3


def script(prompt: Sequence[int], text: Sequence[int]) -> Callable[[Sequence[int], int], np.ndarray]:
    """Behind `prompt` comes `text`, whatever else was likely."""
    whole = [*prompt, *text]

    def logits(ids: Sequence[int], n_vocab: int) -> np.ndarray:
        found = random_logits(ids, n_vocab)
        if len(prompt) <= len(ids) < len(whole):
            found[whole[len(ids)]] = 50.0
        return found

    return logits


@dataclass
class ToyEngine:
    """steps: what each step carried, (sequence, tokens, wanted). on_step is called before each, and may raise."""

    n_sequences: int = 1
    n_ctx: int = 256
    unified: bool = False
    slack: int = 1 << 20  # tokens that it can go back by
    most_tokens: int = 32
    config: ToyConfig = field(default_factory=ToyConfig)
    logits: Callable[[Sequence[int], int], np.ndarray] = random_logits
    n_groups: int = 1
    on_take: Callable[[], None] = lambda: None
    on_step: Callable[[Sequence[Piece]], None] = lambda pieces: None
    stats: SparsityStats = field(default_factory=SparsityStats)

    def __post_init__(self) -> None:
        self.pages = PageTable(Extent(self.n_ctx, self.n_sequences, self.unified))
        self.ids: list[list[int]] = [[] for _ in range(self.n_sequences)]
        self.in_flight: list[set[int]] = []  # the sequences of steps that have not ended
        self.most_in_flight = 0
        self.steps: list[list[tuple[int, int, Wanted]]] = []

    @property
    def n_ctx_sequence(self) -> int:
        return self.pages.n_ctx_sequence

    @property
    def n_free(self) -> int:
        return self.n_ctx - self.pages.n_used

    @property
    def keeps_all(self) -> bool:
        return self.slack >= self.n_ctx

    devices = ("gpu",)

    def neurons(self) -> list[LayerNeurons]:
        return [LayerNeurons(100, 40, None), LayerNeurons(100, 0, 0.25)]

    def begin(self, pieces: Sequence[Piece]) -> Callable[[], list[np.ndarray | None]]:
        found = self.step(pieces)
        self.in_flight.append({piece.sequence for piece in pieces})
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))

        def take() -> list[np.ndarray | None]:
            self.in_flight.pop(0)
            self.on_take()
            return found

        return take

    def step(self, pieces: Sequence[Piece]) -> list[np.ndarray | None]:
        assert pieces
        assert all(len(piece.ids) for piece in pieces)
        assert len({piece.sequence for piece in pieces}) == len(pieces)
        assert sum(len(piece.ids) for piece in pieces) <= self.most_tokens
        self.on_step(pieces)
        self.steps.append([(piece.sequence, len(piece.ids), piece.wanted) for piece in pieces])
        for piece in pieces:
            self.pages.resize(piece.sequence, len(self.ids[piece.sequence]) + len(piece.ids))
        return [self._append(piece) for piece in pieces]

    def _append(self, piece: Piece) -> np.ndarray | None:
        ids = self.ids[piece.sequence]
        before = len(ids)
        ids += piece.ids
        if piece.wanted is Wanted.HIDDEN:
            return np.stack([hidden(ids[: i + 1]) for i in range(before, len(ids))])
        return self.logits(ids, self.config.n_vocab) if piece.wanted is Wanted.LAST else None

    def ahead(self, sequence: int, token: int) -> None:
        return None

    def begin_drafts(self, sequence: int, most: int | None = None, least: int | None = None) -> None:
        pass

    def drafted(self, sequence: int = 0) -> Drafted:
        return Drafted()

    def begin_prompt(self, n: int, sequence: int = 0, tails: Sequence[int] = ()) -> Sequence[int]:
        return ()

    def tokens_of(self, sequence: int) -> Sequence[int]:
        return self.ids[sequence]

    def left(self, n: int, sequence: int = 0) -> int:
        return n if len(self.ids[sequence]) - n <= self.slack else 0

    def truncate(self, n: int, sequence: int = 0) -> int:
        assert 0 <= n <= len(self.ids[sequence])
        left = self.left(n, sequence)
        del self.ids[sequence][left:]
        self.pages.resize(sequence, left)
        return left

    def shift(self, n_keep: int, n_discard: int, sequence: int = 0) -> None:
        assert n_keep + n_discard <= len(self.ids[sequence])
        del self.ids[sequence][n_keep : n_keep + n_discard]
        self.pages.resize(sequence, len(self.ids[sequence]))

    def save(self, sequence: int) -> dict[str, np.ndarray]:
        return {"0.k": np.outer(self.ids[sequence], [1.0, 0.5]).astype(np.float16)}

    def saved_bytes(self, sequence: int) -> int:
        return 4 * len(self.ids[sequence])

    def regained(self, n: int, length: int, stored: Mapping[str, np.ndarray]) -> int:
        return n if length - n <= self.slack else 0

    def restore(self, sequence: int, ids: Sequence[int], stored: Mapping[str, np.ndarray]) -> None:
        if set(stored) != {"0.k"} or stored["0.k"].shape != (len(ids), 2):
            raise PowerInferError("not what this engine saved")
        self.truncate(0, sequence)
        self.pages.resize(sequence, len(ids))
        self.ids[sequence] += ids


def hidden(ids: Sequence[int]) -> np.ndarray:
    """[N_EMBD]"""
    return np.array([len(ids), sum(ids) % 1000, ids[-1], 1.0], np.float32)
