"""An engine that looks ahead tells what it would tell without, to the bit, whatever is proposed."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.drafting import Draft, Drafter, DraftingEngine, DraftOptions, Wish
from powerinfer_cli.drafting.model import ModelDrafter
from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.model import load_model
from powerinfer_cli.opening import open_model
from powerinfer_cli.opening.sampling_wishes import SamplingWishes
from powerinfer_cli.runtime import Engine, EngineOptions, Piece
from powerinfer_cli.runtime.step import Answer
from tests.helpers.families import tiny_family
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import N_VOCAB, tiny_model

N = 40


class PartlyRight:
    """Knows each sequence's text, and proposes it as far as chance has it; then nonsense."""

    cost = 0.0

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.texts, self.random = texts, np.random.default_rng(5)
        self.forgotten: list[tuple[int, int]] = []

    def propose(self, texts: Mapping[int, Sequence[int]], wishes: Mapping[int, Wish]) -> dict[int, Draft]:
        found = {}
        for i, ids in texts.items():
            assert list(ids) == list(self.texts[i][: len(ids)])
            right, wrong = self.random.integers(0, 5, 2)
            draft = [*self.texts[i][len(ids) : len(ids) + right], *self.random.integers(0, N_VOCAB, wrong).tolist()]
            found[i] = Draft(draft[: max(wishes[i](0), 1)])
        return found

    def forget(self, sequence: int, n: int) -> None:
        self.forgotten.append((sequence, n))

    def close(self) -> None:
        pass


class Unsure:
    """Another's proposals, of which every second one's last token is wrong."""

    def __init__(self, other: Drafter) -> None:
        self.cost, self._other, self._count = other.cost, other, 0
        self.forget, self.close = other.forget, other.close

    def propose(self, texts: Mapping[int, Sequence[int]], wishes: Mapping[int, Wish]) -> dict[int, Draft]:
        self._count += 1
        found = self._other.propose(texts, wishes)
        if self._count % 2:
            return found
        return {i: Draft([*draft.ids[:-1], (draft.ids[-1] + 1) % N_VOCAB]) for i, draft in found.items() if draft.ids}


def sparse(kind: GGMLType) -> ModelFile:
    tiny = tiny_model("llama-relu")
    return tiny.file.sparsified(random_predictors(tiny)).stored_as(kind)


def drafting(file: ModelFile, folder: Path, texts: Sequence[Sequence[int]], **options: object) -> DraftingEngine:
    model = load_model(file.open(folder))
    usual = {"n_threads": 1, "type_k": "f32", "type_v": "f32"}
    wanted = EngineOptions(n_ctx=128 * len(texts), n_sequences=len(texts), **(usual | options))  # type: ignore[arg-type]
    return DraftingEngine(model, wanted, drafter=lambda engine: PartlyRight(texts), drafts=DraftOptions())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gemma3", {"n_threads": 2, "n_ubatch": 16}),  # a window, whose pages later tokens overwrite
        ("llama4", {"type_k": "f16", "type_v": "f16"}),
        ("mixtral", {"n_threads": 2}),
        ("deepseek3", {}),
        ("qwen35", {"n_threads": 2}),  # states, which cannot be cut back
        ("qwen3next", {}),
        ("lfm2moe", {}),
        ("sparse", {"n_threads": 3}),
        ("sparse", {"repack": False}),
        ("qwen3", {"type_k": "q8_0", "type_v": "q8_0"}),
    ],
)
def test_nothing_differs_but_the_speed(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    files = {"sparse": partial(sparse, GGMLType.Q4_0), "qwen3": lambda: tiny_model("qwen3").file}
    file = files[name]() if name in files else tiny_family(name).file
    text = np.random.default_rng(0).integers(0, N_VOCAB, 20 + N).tolist()
    plain = file.engine(tmp_path, n_ctx=128, **options)
    ahead = drafting(file, tmp_path, [text], **options)
    np.testing.assert_array_equal(plain.prefill(text[:20]), ahead.prefill(text[:20]))
    for i, token in enumerate(text[20:]):
        np.testing.assert_array_equal(plain.decode(token), ahead.decode(token))
        assert ahead.n_past == 21 + i
    assert list(ahead.tokens) == text
    assert ahead.n_free == plain.n_free
    np.testing.assert_array_equal(ahead.stats.counts, plain.stats.counts)
    drafted = ahead.drafted()
    assert 0 < drafted.accepted < drafted.proposed
    if plain.keeps_all:
        assert ahead.truncate(50) == plain.truncate(50) == 50
    plain.shift(4, 10)
    ahead.shift(4, 10)
    np.testing.assert_array_equal(plain.decode(1), ahead.step([Piece(0, (1,))])[0])


def test_company(tmp_path: Path) -> None:
    """Drafts of several sequences in one step; one has none, one reads a prompt meanwhile."""
    file, random = sparse(GGMLType.Q8_0), np.random.default_rng(1)
    texts = random.integers(0, N_VOCAB, (3, 10 + N)).tolist()
    plain = file.engine(tmp_path, n_ctx=384, n_sequences=3)
    ahead = drafting(file, tmp_path, texts)
    ahead.begin_drafts(1, 0)
    for engine in (plain, ahead):
        engine.step([Piece(i, text[:10]) for i, text in enumerate(texts[:2])])
    for at in range(10, 10 + N):
        pieces = [Piece(i, (text[at],), stepwise=True) for i, text in enumerate(texts[:2])]
        if at == 20:
            pieces.append(Piece(2, texts[2][:10]))
        for one, other in zip(plain.step(pieces), ahead.step(pieces), strict=True):
            np.testing.assert_array_equal(one, other)
    assert ahead.drafted(0).accepted > 0
    assert ahead.drafted(1).proposed == 0
    np.testing.assert_array_equal(ahead.stats.counts, plain.stats.counts)
    assert [list(ahead.tokens_of(i)) for i in range(3)] == [list(plain.tokens_of(i)) for i in range(3)]


def test_texts_are_the_same() -> None:
    """Samplers, penalties, grammars and stop strings see one token after the other, as ever."""
    kinds: list[SamplingWishes] = [
        {"temperature": 0.0, "stop": ["queen of"]},
        {"temperature": 1.0, "seed": 3, "repeat_penalty": 1.1},
        {"temperature": 0.7, "seed": 1, "grammar": 'root ::= ("a " | "bear ")+'},
    ]
    told = []
    for drafts in ({}, {"spec_type": "ngram", "spec_ngram_size_n": 1}):
        with open_model(n_ctx=256, n_threads=1, **drafts) as model:  # type: ignore[arg-type]
            told.append([model.generate("Once upon a time", max_tokens=60, **wishes).read() for wishes in kinds])
            assert (model.engine.drafted().accepted > 0) is bool(drafts)
    assert told[0] == told[1]


@pytest.mark.parametrize("small", ["llama-relu", "qwen2"])
def test_a_model_drafts(tmp_path: Path, small: str) -> None:
    """Of itself it foresees everything; what another one proposes is wrong, and changes nothing."""
    options = EngineOptions(n_ctx=128, n_threads=1, type_k="f32", type_v="f32", drafting=True)
    model = load_model(tiny_model("llama-relu").file.open(tmp_path))
    helper = Engine(load_model(tiny_model(small).file.open(tmp_path)), options)
    ahead = DraftingEngine(
        model, options, drafter=lambda engine: ModelDrafter(helper, 0.0, 0.01), drafts=DraftOptions()
    )
    plain, told = Engine(model, options), []
    for engine in (plain, ahead):
        following = engine.prefill([1, 5, 9])
        told.append([following])
        for _ in range(N):
            following = engine.decode(int(following.argmax()))
            told[-1].append(following)
    np.testing.assert_array_equal(*told)
    drafted = ahead.drafted()
    assert drafted.proposed > 0
    assert (drafted.accepted > N // 2) is (small == "llama-relu")


def test_a_recurrent_model_drafts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes back to where it began to propose, and reads but what has come since."""
    options = EngineOptions(n_ctx=128, n_threads=1, type_k="f32", type_v="f32", drafting=True)
    model = load_model(tiny_family("qwen35").file.open(tmp_path))
    helper = Engine(model, options)
    read: list[int] = []
    step = helper.step

    def counted(pieces: Sequence[Piece]) -> list[Answer]:
        read.extend(len(piece.ids) for piece in pieces)
        return step(pieces)

    monkeypatch.setattr(helper, "step", counted)
    proposes = partial(Unsure, ModelDrafter(helper, 0.0, 0.01))
    ahead = DraftingEngine(model, options, drafter=lambda _: proposes(), drafts=DraftOptions())
    plain, told = Engine(model, options), []
    for engine in (plain, ahead):
        following = engine.prefill([1, 5, 9])
        told.append([following])
        for _ in range(N):
            following = engine.decode(int(following.argmax()))
            told[-1].append(following)
    np.testing.assert_array_equal(*told)
    drafted = ahead.drafted()
    assert 0 < drafted.accepted < drafted.proposed
    assert sum(read) < 2 * (N + drafted.proposed)
