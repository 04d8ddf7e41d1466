"""Profiling a text: what is written, and how it goes on after an interruption."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.placement import load_firing, load_statistics
from powerinfer_cli.placement.group_activity import load_group_activity
from powerinfer_cli.runtime import LoadEvents
from solver.profile.active import ActiveRule
from solver.profile.statistics import Profile, made_of, profile_text
from solver.profile.text import chunks_of, held_out
from tests.solver.fake_engine import FakeEngine, fake_config

IDS = [int(i) for i in np.random.default_rng(2).integers(0, 50, 640)]
CHUNKS = [list(chunk) for chunk in chunks_of(IDS, 64, bos=1)]


def profile(
    folder: Path, engine: FakeEngine, rule: ActiveRule | None = None, text: str = "a", events: LoadEvents | None = None
) -> Profile:
    return profile_text(
        engine.config,
        lambda: engine,
        CHUNKS,
        folder,
        folder / "work",
        rule or ActiveRule(),
        {"text": text},
        events or LoadEvents(),
    )


def expected_counts(engine: FakeEngine) -> list[list[int]]:
    ids = [token for chunk in CHUNKS for token in chunk]
    return [(engine.values(layer, ids)[1] != 0).sum(axis=0).tolist() for layer in range(3)]


def test_chunks_are_whole_and_begin_alike() -> None:
    assert list(chunks_of([5, 6, 7, 8, 9], 2, bos=None)) == [(5, 6), (7, 8)]
    assert list(chunks_of([5, 6, 7, 8], 2, bos=1)) == [(1, 6), (1, 8)]
    assert [len(chunk) for chunk in chunks_of([0] * 1024, 4096, bos=None)] == [512, 512]


def test_a_text_shorter_than_a_chunk_is_one_line() -> None:
    with pytest.raises(PowerInferError, match=r"^the text has 3 tokens, but one chunk has 64: give a longer text$"):
        chunks_of([1, 2, 3], 64, bos=None)


def test_held_out_chunks_come_from_all_parts() -> None:
    numbered = [[i] for i in range(20)]
    train, held = held_out(numbered)
    assert held == [(3,), (7,), (11,), (15,), (19,)]
    assert sorted(train + held) == [tuple(one) for one in numbered]
    assert held_out(numbered[:1]) == ([(0,)], [(0,)])
    assert held_out(numbered[:2]) == ([(0,)], [(1,)])


def test_counts_and_tokens_are_written(tmp_path: Path) -> None:
    engine = FakeEngine()
    seen: list[tuple[str, int, int]] = []
    found = profile(tmp_path, engine, events=LoadEvents(progress=lambda *what: seen.append(what)))
    statistics = load_statistics(tmp_path / "activation", [21] * 3)
    assert [counts.tolist() for counts in statistics.counts] == expected_counts(engine)
    assert [counts.tolist() for counts in found.counts] == expected_counts(engine)
    assert statistics.tokens == found.tokens == 640
    assert seen[-1] == ("profile", 640, 640)
    assert [done for _, done, _ in seen] == list(range(64, 641, 64))
    assert not (tmp_path / "work" / "profile-partial.npz").exists()
    assert len(list((tmp_path / "activation").iterdir())) == 3, "the original takes every file there for a layer's"


@pytest.mark.parametrize("kept", [1024, 100])
def test_the_last_tokens_are_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Also where a chunk is cut."""
    monkeypatch.setattr("powerinfer_cli.placement.firing.MOST_TOKENS", kept)
    engine = FakeEngine(fake_config(n_ff=(20, 21, 9)))
    profile(tmp_path, engine)
    trace = load_firing(tmp_path / "firing.npz", (20, 21, 9))
    ids = [token for chunk in CHUNKS for token in chunk]
    for layer in range(3):
        wanted = engine.values(layer, ids)[1] != 0
        np.testing.assert_array_equal(trace.fired(layer), wanted[-kept:])


def test_activations_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    class Broken(FakeEngine):
        def values(self, layer: int, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
            residual, activations = super().values(layer, ids)
            if layer == 1 and len(self.recorded) == 2:
                activations[3, 5] = np.nan
            return residual, activations

    with pytest.raises(PowerInferError, match=r"^layer 1, token 131 of the text: activations that are no numbers"):
        profile(tmp_path, Broken())


def test_groups_add_up(tmp_path: Path) -> None:
    engine = FakeEngine()
    profile(tmp_path, engine)
    counts = load_statistics(tmp_path / "activation", [21] * 3).counts
    groups = load_group_activity(tmp_path, counts)
    assert groups is not None
    assert groups.bounds.tolist() == list(range(22))
    ids = [token for chunk in CHUNKS for token in chunk][::2]  # 640 tokens, of which 320 are looked at
    for layer in range(3):
        order = np.argsort(-counts[layer], kind="stable")
        np.testing.assert_allclose(groups.mean[layer], counts[layer][order] / 640)
        active = (engine.values(layer, ids)[1] != 0)[:, order]
        np.testing.assert_allclose(groups.covariance[layer], np.cov(active.T), atol=1e-12)
        assert groups.tail_deviation(layer, 5) == pytest.approx(active[:, 5:].sum(axis=1).std(ddof=1))


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), PowerInferError("no more")])
def test_it_goes_on_after_the_last_whole_chunk(tmp_path: Path, failure: BaseException) -> None:
    broken = FakeEngine(fail_at=4, failure=failure)
    with pytest.raises(type(failure)):
        profile(tmp_path, broken)
    assert not (tmp_path / "activation").exists()
    again, notes = broken.whole(), []
    profile(tmp_path, again, events=LoadEvents(note=notes.append))
    assert notes == ["profile: going on after chunk 4 of 10"]
    assert again.recorded == CHUNKS[4:]
    profile(tmp_path / "whole", FakeEngine())
    for name in ("activation/activation_2.pt",):
        assert torch.equal(torch.load(tmp_path / name), torch.load(tmp_path / "whole" / name))
    for name in ("activation.npz", "firing.npz"):
        resumed, whole = (np.load(folder / name) for folder in (tmp_path, tmp_path / "whole"))
        assert all(np.array_equal(resumed[part], whole[part]) for part in whole.files)


@pytest.mark.parametrize("damage", ["another text", "truncated", "a wrong byte"])
def test_what_does_not_fit_is_begun_anew(tmp_path: Path, damage: str) -> None:
    broken = FakeEngine(fail_at=4)
    with pytest.raises(KeyboardInterrupt):
        profile(tmp_path, broken)
    if damage == "truncated":
        partial = tmp_path / "work" / "profile-partial.npz"
        partial.write_bytes(partial.read_bytes()[:-40])
    if damage == "a wrong byte":
        partial = tmp_path / "work" / "profile-partial.npz"
        content = bytearray(partial.read_bytes())
        content[content.index(b"PK\x01\x02") + 8] |= 1  # says that it is encrypted
        partial.write_bytes(content)
    again = broken.whole()
    profile(tmp_path, again, text="b" if damage == "another text" else "a")
    assert again.recorded == CHUNKS


def test_of_other_activations_the_largest_count(tmp_path: Path) -> None:
    engine = FakeEngine(fake_config(n_ff=(20,) * 3))
    found = profile(tmp_path, engine, ActiveRule(0.25))
    assert all(int(counts.sum()) >= 5 * 640 for counts in found.counts)


def test_layers_of_different_widths(tmp_path: Path) -> None:
    """Each layer is counted by itself; groups, which are the same in all layers, there are none."""
    widths = (20, 21, 9)
    found = profile(tmp_path, FakeEngine(fake_config(n_ff=widths)))
    assert [len(counts) for counts in found.counts] == list(widths)
    alone = profile(tmp_path / "alone", FakeEngine(fake_config(n_ff=(9,) * 3)))
    assert found.counts[2].tolist() == alone.counts[2].tolist()
    known = load_statistics(tmp_path / "activation", widths)
    assert [len(counts) for counts in known.counts] == list(widths)
    assert known.tokens is None
    assert load_statistics(tmp_path / "alone" / "activation", [9] * 3).tokens == found.tokens


def test_active_by_hand() -> None:
    activations = np.array([[0.1, -3.0, 2.0, 0.0], [1.0, 0.5, 0.2, -0.1]], np.float32)
    assert ActiveRule(0.5).mask(activations).tolist() == [[False, True, True, False], [True, True, False, False]]
    assert ActiveRule(0.01).mask(activations).sum(axis=1).tolist() == [1, 1]
    assert ActiveRule().mask(activations).tolist() == [[True, True, True, False], [True] * 4]
    for rule in (ActiveRule(0.5), ActiveRule(0.01), ActiveRule()):
        changed = activations.copy()
        rule.apply(changed)
        np.testing.assert_array_equal(changed, np.where(rule.mask(activations), activations, 0))


@pytest.mark.parametrize("density", [0.0, -1.0, 1.5, float("nan")])
def test_a_density_is_a_share(density: float) -> None:
    with pytest.raises(UsageError, match="the density must be above 0 and at most 1"):
        ActiveRule(density)


def test_texts_are_told_apart() -> None:
    assert made_of(CHUNKS) == made_of([list(chunk) for chunk in CHUNKS])
    assert len({made_of(CHUNKS), made_of(CHUNKS[1:]), made_of([[1, 2], [3]]), made_of([[1], [2, 3]])}) == 4
