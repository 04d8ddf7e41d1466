"""The comparison with llama.cpp: figures by hand arithmetic, the order of runs, what is written."""

import json
import sys
from pathlib import Path

import pytest

from scripts.bench import peer
from scripts.bench.peer_cases import CASES, Case, Measure, Run, Sample, figure, runs_of
from scripts.bench.peer_report import markdown


def samples(case: Case, *speeds: list[float], share: float | None = None) -> dict[Run, list[Sample]]:
    """For ours, then theirs."""
    return {
        run: [Sample(speed, share) for speed in found]
        for run, found in zip((*case.ours, *case.theirs), speeds, strict=True)
    }


def test_targets_are_the_issues() -> None:
    wanted = {
        "sparse-1.1b": 2.5,
        "sparse-7b": 2.2,
        "dense-q4_0": 1.1,
        "dense-q8_0": 1.05,
        "dense-q4_k_m": 1.0,
        "prompt-dense": 1.0,
        "prompt-sparse": 1.8,
        "depth": 1.0,
        "experts-q4_0": 1.15,
        "prompt-experts": 1.5,
        "bandwidth-experts": 0.75,
        "bandwidth-experts-k": 0.75,
        "bandwidth-gpt-oss": 0.75,
        "bandwidth-dense": 0.8,
        "avx2": 0.75,
    }
    assert {name: CASES[name].target for name in wanted} == wanted


def test_a_ratio_of_medians_and_its_spread() -> None:
    case = CASES["sparse-1.1b"]
    found = figure(case, samples(case, [100, 120, 90], [50, 40, 45], share=0.5))
    assert (found.ours, found.theirs, found.ratio) == (100, 45, 100 / 45)
    assert (found.lowest, found.highest) == (2, 3)
    assert not found.met
    assert found.share_of_bandwidth == 0.5


def test_depth_compares_what_is_left() -> None:
    case = CASES["depth"]
    assert [run.depth for run in (*case.ours, *case.theirs)] == [1500, 0, 1500, 0]
    found = figure(case, samples(case, [80], [100], [30], [50]))
    assert (found.ours, found.theirs) == (0.8, 0.6)
    assert found.ratio == pytest.approx(0.8 / 0.6)
    assert found.met


def test_bandwidth_is_our_own_share() -> None:
    case = CASES["bandwidth-sparse"]
    found = figure(case, samples(case, [10, 30, 20], share=0.75))
    assert (found.ours, found.theirs, found.ratio, found.met) == (20, None, 0.75, False)


def test_rungs_compare_us_with_ourselves() -> None:
    case = CASES["avx2"]
    assert [(run.ours, run.rung) for run in (*case.ours, *case.theirs)] == [(True, "avx2"), (True, "")]
    assert figure(case, samples(case, [8], [10])).ratio == 0.8


def test_what_is_compared_runs_side_by_side_and_once() -> None:
    runs = runs_of([CASES["depth"], CASES["dense-q4_0"], CASES["bandwidth-dense"]])
    assert [(run.ours, run.depth) for run in runs] == [(True, 1500), (False, 1500), (True, 0), (False, 0)]


def test_twins_stand_against_each_other() -> None:
    for case in CASES.values():
        for ours, theirs in zip(case.ours, case.theirs, strict=False):
            assert theirs.model.dense or case.measure is Measure.RUNG
            assert (ours.n_prompt, ours.n_gen, ours.depth) == (theirs.n_prompt, theirs.n_gen, theirs.depth)
            assert (ours.model.shape, ours.model.type) == (theirs.model.shape, theirs.model.type)


def test_the_table_shows_what_was_missed() -> None:
    case = CASES["dense-q4_0"]
    text = markdown([figure(case, samples(case, [50], [100]))], "A machine")
    assert text.splitlines()[0] == "A machine"
    assert text.splitlines()[4] == (
        "| decode, dense 1.1B, Q4_0 | 50.0 tokens/s | 100.0 tokens/s | 0.50 (0.50 to 0.50) | 1.1 | missed | - |"
    )


def test_a_run_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def fake(run: Run, path: Path, args: object) -> Sample:
        order.append(run.ours)
        assert path.exists()
        return Sample(120.0 if run.ours else 60.0)

    monkeypatch.setattr(peer, "measure", fake)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    args = ["--cases", "sparse-1.1b,prompt-dense", "--shape", "tiny", "--rounds", "2", "--models", str(tmp_path / "m")]
    (decode, prompt) = peer.main([*args, "--out", str(tmp_path / "out")])
    assert (decode.ratio, decode.met, prompt.ratio) == (2.0, False, 2.0)
    assert order == [True, False, True, False] * 2
    sparse = "tiny-q4_0-0.9-seed0.powerinfer"
    names = ["tiny-q4_0-0.9-seed0.gguf", f"{sparse}.gguf", f"{sparse}.solved"]  # the last: its statistics
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == names
    written = json.loads((tmp_path / "out" / "peer.json").read_text())
    assert [f["ratio"] for f in written["figures"]] == [2.0, 2.0]
    assert len(written["samples"]) == 4
    assert (tmp_path / "out" / "peer.md").read_text().count("\n| ") == 4


def test_our_side_is_powerinfer_bench(tmp_path: Path) -> None:
    args = peer.parse(["--shape", "tiny", "--models", str(tmp_path), "--threads", "1", "--repeats", "2"])
    run = peer.reshaped(CASES["bandwidth-sparse"], "tiny").ours[0]
    sample = peer.measure(run, peer.model_file(run.model, args), args)
    assert sample.tokens_per_second > 1
    assert sample.share_of_bandwidth is not None
    assert sample.share_of_bandwidth > 0


def test_a_failure_is_told(tmp_path: Path) -> None:
    args = peer.parse(["--peer-python", sys.executable])
    with pytest.raises(SystemExit, match=r"^error: .*llama_cpp_bench"):
        peer.measure(CASES["depth"].theirs[0], tmp_path / "none.gguf", args)


def test_wrong_flags() -> None:
    for wrong in (["--cases", "nothing"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            peer.parse(wrong)
