"""A model's own layer behind its last one: it guesses as it is defined, and nothing but the speed depends on it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.drafting import Draft, DraftingEngine, DraftOptions, Wish
from powerinfer_cli.drafting.guesses import GuessingDrafter
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.model import load_model
from powerinfer_cli.model.guesser import read_guesser
from powerinfer_cli.opening import open_model
from powerinfer_cli.placement import LayerPlacement, Placement, Plan
from powerinfer_cli.runtime import Engine, EngineOptions, Piece, Wanted
from powerinfer_cli.runtime.backend import Hidden
from powerinfer_cli.runtime.batch import Batch
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.families.guessers import GUESSERS, tiny_guesser
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.devices import DEVICES
from tests.helpers.tiny_models import N_VOCAB

N = 30
OPTIONS = EngineOptions(n_ctx=128, n_threads=1, type_k="f32", type_v="f32", drafting=True)


def engines(file: ModelFile, folder: Path, options: EngineOptions = OPTIONS) -> tuple[Engine, Engine]:
    """Of the model, and of what guesses."""
    gguf = file.open(folder)
    model = load_model(gguf)
    return Engine(model, options), Engine(read_guesser(gguf, model), options)


@pytest.mark.parametrize("name", GUESSERS)
@pytest.mark.parametrize("where", ["cpu", "reference", "device"])
def test_it_guesses_as_it_is_defined(name: str, where: str, tmp_path: Path) -> None:
    guesser = tiny_guesser(name)
    trunk, layer = engines(guesser.file, tmp_path, replace(OPTIONS, reference=where == "reference"))
    if where == "device":  # rehearsed on the CPU; half of what can be divided is cold
        gguf = guesser.file.open(tmp_path)
        model = read_guesser(gguf, load_model(gguf))
        n = model.n_groups[0]
        hot = np.arange(n // 2 if model.layers[0].ffn.divisible else 0, n, dtype=np.int32)
        plan = Plan((1 << 30,), (LayerPlacement(0, hot),), 0, "layers", "")
        layer = Engine(model, OPTIONS, placement=Placement(plan, DEVICES))
    seen: list[Hidden] = []
    trunk.watch_hidden(lambda _, hidden: seen.append(hidden))
    trunk.prefill(PROMPT[:40])
    hidden, ids = np.concatenate(seen), PROMPT[1:40]
    rows = []
    for begin, end in ((0, 20), (20, 24), (24, 25), (25, 39)):  # many tokens, a few, one
        piece = Piece(0, ids[begin:end], Wanted.ALL, stepwise=end - begin == 4, hidden=hidden[begin:end])
        rows.append(layer.step([piece])[0])
    np.testing.assert_allclose(np.concatenate(rows), guesser.logits(PROMPT[:40]), rtol=0, atol=1e-4)


class Told:
    """Another's proposals, written down."""

    def __init__(self, other: GuessingDrafter) -> None:
        self.cost, self._other, self.drafts = other.cost, other, list[tuple[list[int], list[int]]]()
        self.latest: dict[int, list[int]] = {}
        self.forget, self.close = other.forget, other.close

    def propose(self, texts: Mapping[int, Sequence[int]], wishes: Mapping[int, Wish]) -> dict[int, Draft]:
        found = self._other.propose(texts, wishes)
        self.drafts += [(list(texts[i]), list(draft.ids)) for i, draft in found.items() if draft.ids]
        self.latest |= {i: [*texts[i], *draft.ids] for i, draft in found.items()}
        return found


@pytest.mark.parametrize("name", GUESSERS)
def test_nothing_differs_but_the_speed(name: str, tmp_path: Path) -> None:
    """In company, with texts cut back; what is proposed is what a layer proposes that has read the text at once."""
    gguf = tiny_guesser(name).file.open(tmp_path)
    model = load_model(gguf)
    options = EngineOptions(n_ctx=256, n_sequences=2, n_threads=1, type_k="f32", type_v="f32", n_ubatch=32)
    told: list[Told] = []

    def drafter(engine: Engine) -> Told:
        layer = Engine(read_guesser(gguf, model), engine.options)
        told.append(Told(GuessingDrafter(engine, layer, 0.0, 0.0)))
        return told[-1]

    plain = Engine(model, options)
    ahead = DraftingEngine(model, options, drafter=drafter, drafts=DraftOptions(most=3))
    random = np.random.default_rng(2)
    for engine in (plain, ahead):
        engine.step([Piece(0, PROMPT[:20]), Piece(1, PROMPT[30:40])])
    for at in range(N):
        tokens = random.integers(0, N_VOCAB, 2).tolist()
        for i, text in told[0].latest.items():
            n = len(plain.tokens_of(i))
            if (at + i) % 3 and text[:n] == plain.tokens_of(i) and n < len(text):  # what was proposed comes
                tokens[i] = text[n]
        pieces = [Piece(i, (token,), stepwise=True) for i, token in enumerate(tokens)]
        for one, other in zip(plain.step(pieces), ahead.step(pieces), strict=True):
            np.testing.assert_array_equal(one, other)
        if at == N // 2:
            n = min(engine.truncate(20, 0) for engine in (plain, ahead))
            assert n == 20
    assert ahead.drafted(0).accepted + ahead.drafted(1).accepted > 0
    trunk, layer = engines(tiny_guesser(name).file, tmp_path)
    for text, draft in told[0].drafts[:6]:  # before anything was cut back, from where hidden states are lost
        trunk.reset()
        fresh = GuessingDrafter(trunk, layer, 0.0, 0.0)
        fresh.forget(0, 0)
        trunk.prefill(text[:-1])
        assert list(fresh.propose({0: text}, {0: lambda _: 1})[0].ids) == draft[:1]


def test_hidden_states_that_are_lost(tmp_path: Path) -> None:
    """Zeros stand for the last of a text that was cut back; what nobody has seen is left out."""
    trunk, layer = engines(tiny_guesser("glm4moe").file, tmp_path)
    drafter = GuessingDrafter(trunk, layer, 0.0, 0.0)
    shown: list[Batch] = []

    def propose(ids: Sequence[int]) -> Sequence[int]:
        return drafter.propose({0: ids}, {0: lambda _: 3})[0].ids

    trunk.prefill(PROMPT[:20])
    first = propose(PROMPT[:21])
    assert first
    assert list(layer.tokens)[:20] == PROMPT[1:21]
    trunk.truncate(10)
    trunk.prefill(PROMPT[40:50])
    step, layer.step = layer.step, lambda pieces: shown.extend(pieces) or step(pieces)  # type: ignore[method-assign]
    propose([*PROMPT[:10], *PROMPT[40:51]])
    assert not shown[0].hidden[0].any()  # type: ignore[attr-defined]
    assert list(layer.tokens)[:20] == [*PROMPT[1:10], *PROMPT[40:51]]
    assert not drafter.propose({0: PROMPT[:30]}, {0: lambda _: 3})


@pytest.mark.parametrize("kind", [GGMLType.Q8_0, GGMLType.Q4_0])
def test_quantised_halves(kind: GGMLType, tmp_path: Path) -> None:
    """What joins both is cut by columns."""
    trunk, layer = engines(tiny_guesser("qwen35").file.stored_as(kind), tmp_path)
    other = engines(tiny_guesser("qwen35").file.stored_as(kind), tmp_path, EngineOptions(n_ctx=128, reference=True))[1]
    seen: list[Hidden] = []
    trunk.watch_hidden(lambda _, hidden: seen.append(hidden))
    trunk.prefill(PROMPT[:16])
    piece = Piece(0, PROMPT[1:17], Wanted.ALL, hidden=np.concatenate(seen))
    found, wanted = (one.step([piece])[0] for one in (layer, other))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.03 * np.abs(wanted).max())


def test_ends_are_packed_once(tmp_path: Path) -> None:
    gguf = tiny_guesser("qwen35").file.stored_as(GGMLType.Q4_0).open(tmp_path)
    model = load_model(gguf)
    trunk = Engine(model, OPTIONS)
    layer = Engine(read_guesser(gguf, model), OPTIONS, beside=trunk)
    own, theirs = (one._backend.packed_ends() for one in (layer, trunk))
    assert own.keys() == theirs.keys()
    assert all(own[name] is theirs[name] for name in own)


def test_asked_for(tmp_path: Path) -> None:
    """By name, from Python; of several heads the first."""
    path = tiny_guesser("qwen35moe").file.write(tmp_path / "model.gguf")
    texts = []
    for drafts in ({}, {"spec_type": "draft-mtp", "draft_p_min": 0.0}):
        with open_model(path, text=False, n_ctx=128, n_threads=1, **drafts) as model:  # type: ignore[arg-type]
            engine = model.engine
            following, ids = engine.prefill(PROMPT[:20]), list[int]()
            for _ in range(N):
                ids.append(int(following.argmax()))
                following = engine.decode(ids[-1])
            texts.append(ids)
            assert (engine.drafted().proposed > 0) is bool(drafts)
    assert texts[0] == texts[1]


def test_what_is_no_head(tmp_path: Path) -> None:
    guesser = tiny_guesser("glm4moe").file
    last = guesser.n_layer - 1
    plain = tiny_family("glm4moe").file
    joined = guesser.tensors[f"blk.{last}.nextn.eh_proj.weight"]
    cases: list[tuple[ModelFile, str]] = [
        (plain, "the model has no extra heads to draft with"),
        (guesser.with_tensors({f"blk.{last}.nextn.enorm.weight": None}), "nextn.enorm.weight is missing"),
        (guesser.with_tensors({f"blk.{last}.nextn.eh_proj.weight": joined[:, 1:]}), "has shape 64 x 127"),
        (guesser.with_tensors({f"blk.{last}.ffn_gate_inp.weight": None}), "ffn_gate_inp.weight is missing"),
        (guesser.with_tensors({f"blk.{last}.nextn.more.weight": joined}), "unexpected tensor"),
    ]
    for file, message in cases:
        path = file.write(tmp_path / "model.gguf")
        with open_model(path, text=False, n_ctx=64, n_threads=1):
            pass  # nobody needs it
        with pytest.raises(PowerInferError, match=message) as error:
            open_model(path, text=False, n_ctx=64, n_threads=1, spec_type="mtp")
        assert "\n" not in str(error.value)
