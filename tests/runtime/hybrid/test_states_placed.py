"""States of recurrent layers on devices, rehearsed on the CPU: several sequences, saved, gone back to, moved."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.model import load_model
from powerinfer_cli.placement import MAIN_MEMORY, Placement
from powerinfer_cli.runtime import Engine, EngineOptions, Piece, Wanted
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.devices import DEVICES
from tests.helpers.placing.plans import plan_of
from tests.helpers.rounding import check_logits

NAMES = ["lfm2", "qwen35", "falcon-h1", "nemotron_h_moe"]
SPLIT = [0, MAIN_MEMORY, 1, 1]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def engine_of(file: ModelFile, folder: Path, devices: list[int], share: float = 1.0, **options: object) -> Engine:
    """devices: of the first layers, of those behind them again."""
    gguf = file.open(folder)
    groups = [layer.ffn.n_groups for layer in load_model(gguf).layers]
    devices = [devices[i % len(devices)] for i in range(len(groups))]
    plan = plan_of(file, devices, [share] * len(devices), devices[-1], groups=groups)
    given = {"n_ctx": 128, "n_threads": 1, "type_k": "f32", "type_v": "f32"} | options
    return Engine.load(gguf, EngineOptions(**given), placement=Placement(plan, DEVICES))  # type: ignore[arg-type]  # any option


def test_in_company(name: str, tmp_path: Path) -> None:
    """Prompts in odd pieces beside single tokens of others; a place that was used is begun anew."""
    one = tiny_family(name)
    engine = engine_of(one.file, tmp_path, SPLIT, n_sequences=3, n_ctx=384)
    engine.step([Piece(2, PROMPT[:9]), Piece(0, [4])])
    for sequence in (0, 2):
        engine.truncate(0, sequence)
    at, found = [0, 0, 0], [[], [], []]
    for sizes in ((3, 40, 0), (1, 1, 1), (33, 1, 17), (1, 1, 1), (1, 0, 30), (1, 1, 1)):
        wanted = [(i, PROMPT[at[i] : at[i] + n]) for i, n in enumerate(sizes) if n]
        for piece, rows in zip(wanted, engine.step([Piece(i, ids, Wanted.ALL) for i, ids in wanted]), strict=True):
            found[piece[0]].append(rows)
        at = [now + n for now, n in zip(at, sizes, strict=True)]
    for i in range(3):
        check_logits(np.concatenate(found[i]), one.reference[: at[i]])


@pytest.mark.parametrize("n_ubatch", [7, 33])
def test_chunks_of_odd_sizes(name: str, tmp_path: Path, n_ubatch: int) -> None:
    one = tiny_family(name)
    check_logits(engine_of(one.file, tmp_path, SPLIT, n_ubatch=n_ubatch).logits(PROMPT), one.reference)


def test_back_to_what_was_saved(name: str, tmp_path: Path) -> None:
    """Within a prompt, at its end, and before tokens on trial."""
    engine = engine_of(tiny_family(name).file, tmp_path, SPLIT, n_ubatch=12, checkpoint_min_step=16, drafting=True)
    whole = engine.prefill(PROMPT[:60])
    after = [engine.decode(token) for token in PROMPT[60:63]]
    assert engine.truncate(62) == 60
    np.testing.assert_array_equal([engine.decode(token) for token in PROMPT[60:63]], after)
    assert engine.truncate(35) == 24
    np.testing.assert_array_equal(engine.prefill(PROMPT[24:60]), whole)
    (rows,) = engine.step([Piece(0, PROMPT[60:64], Wanted.ALL, stepwise=True)])
    check_logits(rows[:3], np.stack(after))
    assert engine.truncate(62) == 60
    np.testing.assert_array_equal([engine.decode(token) for token in PROMPT[60:63]], after)


def test_a_saved_context_goes_on_elsewhere(name: str, tmp_path: Path) -> None:
    """Between main memory, devices and the plain twin, and to another sequence, as it was to the bit."""
    one = tiny_family(name)
    engines = [
        one.file.engine(tmp_path, n_ctx=256, n_threads=1, n_sequences=2, type_k="f32", type_v="f32"),
        engine_of(one.file, tmp_path, SPLIT, n_ctx=256, n_sequences=2),
        one.file.engine(tmp_path, n_ctx=256, n_threads=1, n_sequences=2, reference=True),
    ]
    engines[0].step([Piece(1, PROMPT[:40])])
    saved = engines[0].save(1)
    for engine in engines[1:]:
        engine.step([Piece(0, PROMPT[:9]), Piece(1, PROMPT[:20])])
        engine.restore(0, PROMPT[:40], saved)
        again = engine.save(0)
        assert again.keys() == saved.keys()
        for key, part in saved.items():
            np.testing.assert_array_equal(again[key], part)
        found = engine.step([Piece(0, PROMPT[40:41]), Piece(1, PROMPT[20:21])])
        check_logits(np.stack(found), one.reference[[40, 20]])


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", NAMES[:3])
def test_hot_neurons(name: str, tmp_path: Path, share: float) -> None:
    """Of a dense model with predictors in every layer."""
    one = tiny_family(name)
    sparse = one.file.sparsified(random_predictors(one, (7, 13, 5, 9)))
    plain = {"n_ctx": 128, "n_threads": 1, "type_k": "f32", "type_v": "f32"}
    ids = PROMPT[:30]
    wanted = sparse.engine(tmp_path, reference=True, **plain).logits(ids)
    engine = engine_of(sparse, tmp_path, [0, 0, 1, 1], share)
    check_logits(np.stack([*engine.logits(ids[:20]), *map(engine.decode, ids[20:])]), wanted)
    assert (engine.stats.hot_share or 0.0) == pytest.approx(share, abs=0.2)
