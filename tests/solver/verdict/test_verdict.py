"""What a model can gain, told before anything long is done."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import Activation, Model, load_model
from powerinfer_cli.model.blocks import predictor_of
from powerinfer_cli.opening import Companions
from powerinfer_cli.opening.planning.gpus import Target
from powerinfer_cli.opening.planning.plan_job import PlanJob
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from solver.decoding import Decoding
from solver.placing import LayerTime, Prediction, Rates, load_profile
from solver.predictor import ReadingSpeed
from solver.predictor.layer import PredictorReport, TrainedPredictor
from solver.stages import Place, SolverModel, text_chunks
from solver.verdict import Judging, Kind, MachineCosts, Verdict, judge, judging, kind_of, slowed, tried_decoding
from solver.verdict.estimate import LayerBytes, LayerEstimate, Trial, estimate_layers
from solver.verdict.look import short_text
from solver.verdict.speed import rows_slowness
from solver.verdict.tried_decoding import TriedDecoding, decode_with_trials
from tests.helpers.placing.placed_model import placed_model
from tests.helpers.tiny_models import N_VOCAB, tiny_model

IDS = [int(i) for i in np.random.default_rng(4).integers(0, N_VOCAB, 8 * 128)]
LAYER = LayerEstimate(0.1, 0.15, 64, True, 1e6, 4e5, 3e5, 8e5)
VERDICT = Verdict(
    Kind.EXACT_ZEROS, Activation.RELU, (LAYER, LAYER), 512, None, None, 3e6, 1.8e6, 1.6e6, 2.6e6, "Q8_0", 0.006, 100.0,
    150.0, 80.0, 0.1, 0.0, "this machine", 4.5, 1, 0.001, 2.0, 1.5, 6000.0,
)  # fmt: skip


def test_the_kind_of_a_model(tmp_path: Path) -> None:
    for number, (file, kind) in enumerate(
        [
            (tiny_model("llama").file, Kind.GRADED),
            (tiny_model("opt").file, Kind.EXACT_ZEROS),
            (placed_model(), Kind.PREDICTED),
        ]
    ):
        assert kind_of(load_model(open_gguf(file.write(tmp_path / f"{number}.gguf")))) is kind


def test_what_is_worth_it() -> None:
    assert VERDICT.pays
    assert VERDICT.gain == pytest.approx(0.5)
    assert VERDICT.speeds() == pytest.approx((80, 120))
    assert VERDICT.sentence() == "worth it: +50% tokens/s are to be expected"
    assert "0.1 MB" not in "".join(VERDICT.lines())
    assert "down matrices become Q8_0 as they are turned; their numbers move by 0.6%" in VERDICT.lines()[5]
    assert not any("turned" in line for line in replace(VERDICT, down_loss=0.0).lines())
    assert "a token reads 3.0 MB now, 1.8 MB with predictors (1.6 MB, were they never wrong)" in VERDICT.lines()[4]
    assert VERDICT.lines()[2] == "  by layer, %: 10 10"
    assert "80.0 now (measured), 120.0 with predictors" in VERDICT.lines()[-1]
    measured = replace(VERDICT, expected=100.0)
    assert measured.gain == pytest.approx(0.25)
    assert "100.0 with predictors (measured in some layers)" in measured.lines()[-1]
    assert "the times differ by 50%" in replace(VERDICT, spread=0.5).lines()[-1]
    assert "differ by more than 100%" in replace(VERDICT, spread=12.0).lines()[-1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sparse": 103.0}, ["only +3%", "--merge FILE --no-predictors (13% fewer bytes a token"]),
        ({"sparse": 100.0, "speed": ReadingSpeed(1e9, 0.9e9, 0.0)}, ["--merge FILE --no-predictors (13% fewer"]),
        ({"sparse": 100.0, "bytes_turned": 3e6, "bits": 16.0}, ["no more tokens/s", "as Q4_K_M (16.0 bits a weight"]),
        (
            {"sparse": 100.0, "kind": Kind.GRADED, "activation": Activation.SILU},
            ["silu makes no zeros", "a ReLU model"],
        ),
        ({"sparse": 100.0}, ["as reading 40% less is outweighed by asking predictors"]),
        ({"sparse": 100.0, "bytes_sparse": 3e6}, ["as predictors read as much as they spare"]),
        ({"sparse": 100.0, "layers": (replace(LAYER, density=0.8),)}, ["80% of the neurons are active"]),
    ],
)
def test_what_is_not_worth_it_is_told_why_and_what_helps(changes: dict[str, Any], words: list[str]) -> None:
    found = replace(VERDICT, **changes)
    assert not found.pays
    for word in [*words, "not worth it: ", "--force goes on all the same"]:
        assert word in found.sentence()


def test_a_verdict_is_what_was_recorded() -> None:
    assert Verdict.from_record(json.loads(json.dumps(VERDICT.record()))) == VERDICT


def test_layers_are_sparse_where_that_reads_less() -> None:
    """The last layer's predictor errs so often that it is not worth its own bytes."""
    size = LayerBytes(dense=3000.0, first=1.0, rest=2.0, hidden=2.0, n_ff=1000)
    trials = {0: Trial(32, 0.2, 0.1), 2: Trial(96, 1.0, 0.1)}
    first, middle, last = estimate_layers([size] * 3, [0.1, 0.1, 0.1], trials, exact=True)
    assert (first.predicted, first.rank, first.sparse) == (pytest.approx(0.2), 32, True)
    assert first.bytes_sparse == pytest.approx(1000 * (0.2 + 0.1 * 2) + 32 * 2)
    assert first.bytes_best == pytest.approx(1000 * 0.1 * 3 + 32 * 2)
    assert first.bytes_turned == pytest.approx(1000 * (1 + 0.1 * 2))
    assert (middle.predicted, middle.rank) == (pytest.approx(0.6), 64)
    assert last.bytes_sparse == pytest.approx(1000 * (1 + 0.2) + 96 * 2)
    [graded] = estimate_layers([size], [0.5], {0: Trial(32, 0.99, 0.5)}, exact=False)
    assert not graded.sparse
    assert graded.bytes_sparse == graded.bytes_turned == graded.bytes_now


def test_where_a_machines_speed_is_known_layers_are_sparse_where_that_is_faster() -> None:
    size = LayerBytes(dense=3000.0, first=1.0, rest=2.0, hidden=2.0, n_ff=1000)
    for scattered, sparse in ((3.0, True), (1.0, False)):
        speed = ReadingSpeed(dense=10.0, scattered=scattered, fixed=20.0)
        [found] = estimate_layers([size], [0.1], {0: Trial(32, 0.2, 0.1)}, speed, exact=True)
        assert found.sparse is sparse
        assert found.bytes_sparse == pytest.approx(464 if sparse else 3000)
    slow = replace(VERDICT, speed=speed, sparse=100.0, layers=(found,))
    assert "rows here and there takes longer than reading all" in slow.sentence()
    assert "--merge" not in slow.sentence()  # rows of turned down matrices would take longer, too
    assert Verdict.from_record(json.loads(json.dumps(slow.record()))) == slow


def test_costs_are_slowed_as_the_whole_model_is() -> None:
    profile = load_profile("rtx-3090-ddr5")
    found, rates = slowed(profile, 1.25).cpu, profile.cpu.rates_for("Q4_0")
    assert found.rates_for("Q4_0").dense == pytest.approx(rates.dense / 1.25)
    assert found.rates_for("Q4_0").scattered == pytest.approx(rates.scattered / 1.25)
    assert (found.layer, found.token) == pytest.approx((profile.cpu.layer * 1.25, profile.cpu.token * 1.25))
    assert VERDICT.slowness == pytest.approx(1.25)
    assert replace(VERDICT, measured=None).slowness == 1
    sparse = slowed(profile, 1.25, 1.5).cpu
    assert sparse.rates_for("Q4_0").scattered == pytest.approx(rates.scattered / 1.875)
    assert (sparse.ffn, sparse.layer) == pytest.approx((profile.cpu.ffn * 1.875, found.layer))


def test_sparse_layers_are_as_slow_as_was_seen() -> None:
    """Of 10 ms two sparse FFNs are 2 ms each; all else takes 1.5 times as long, and a token 18 ms."""
    times = tuple(LayerTime(1e-3, 0.0, 2e-3, 2e-3, 0.0, 0.0) for _ in range(3))
    layers = LAYER, LAYER, replace(LAYER, sparse=False)
    found = Prediction(times, head=1e-3, token=0.0)
    assert rows_slowness(found, layers, 1.5, 18e-3) == pytest.approx((18 / 1.5 - 6) / 4)
    assert rows_slowness(found, layers[2:] * 3, 1.5, 18e-3) == 1.0
    assert rows_slowness(found, layers, 1.5, 1.0) == 4.0  # more is an error of what was measured


def test_a_small_model_is_decoded_with_the_predictors_that_were_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tried_decoding, "SECONDS", 0.05)
    model = load_model(open_gguf(tiny_model("llama-relu").file.write(tmp_path / "model.gguf")))
    n_embd, n_ff = model.config.n_embd, model.config.n_ff[1]
    made = TrainedPredictor(torch.ones(32, n_embd), torch.ones(n_ff, 32), PredictorReport(0.95, 1.0, 0.5, 0.1, 32))
    opened: list[Model] = []

    class Opened(Engine):
        def __init__(self, of: Model, *rest: Any) -> None:
            opened.append(of)
            super().__init__(of, *rest)

    monkeypatch.setattr(tried_decoding, "Engine", Opened)
    found = decode_with_trials(model, EngineOptions(n_ctx=64, n_threads=1), {1: made}, IDS[:60], lambda *_: None)
    assert min(found.dense.tokens, found.sparse.tokens) >= 8
    dense, sparse = opened
    assert dense is model
    assert [predictor_of(layer.ffn.selection) is not None for layer in sparse.layers] == [
        i == 1 for i in range(model.config.n_layer)
    ]
    assert sparse.layers[0].ffn.neurons is model.layers[0].ffn.neurons


def test_a_short_text_is_from_all_over() -> None:
    chunks = [[i] * 300 for i in range(100)]
    pieces = short_text(chunks, 10**8)
    assert sum(map(len, pieces)) == 4096
    assert pieces[-1][0] >= 80
    assert sum(map(len, short_text(chunks, 10**11))) == 512


def wished(model: SolverModel, *, here: bool = False) -> Judging:
    def machine() -> MachineCosts:
        job = PlanJob.of(model.gguf, model.model, model.options, Target((), ()), Companions(None, None))
        profile = load_profile("rtx-3090-ddr5")
        return MachineCosts(profile, job.sizes, job.budgets, job.settings("milp"), here=here)

    return Judging(None, 0.95, machine, "a name", here=here)


@pytest.mark.parametrize(("name", "kind"), [("llama-relu", Kind.EXACT_ZEROS), ("llama", Kind.GRADED)])
def test_a_verdict_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: Kind) -> None:
    path = tiny_model(name).file.write(tmp_path / "model.gguf")
    told: list[str] = []
    events = LoadEvents(progress=lambda what, done, total: told.append(what))
    model = SolverModel(open_gguf(path), EngineOptions(n_threads=1), events)
    chunks, place = text_chunks(model, IDS, None), Place(tmp_path / "out")
    with_engine: list[bool] = []
    tries = judging.try_predictor

    def tried(*given: Any) -> TrainedPredictor:
        with_engine.append("_engine" in vars(model))
        return tries(*given)

    monkeypatch.setattr(judging, "try_predictor", tried)
    found = judge(model, chunks, place, wished(model))
    assert with_engine
    assert not any(with_engine)  # both at once would be more than the model and a GiB
    assert found.kind is kind
    assert 0 < found.active < 1
    assert found.bytes_best <= found.bytes_sparse <= found.bytes_now
    assert found.dense > 0
    assert 0 < found.alone <= 1.05 * found.training  # a thread's own time, of what it took by the clock
    assert found.measured is None  # for another machine
    assert {judging.READING, judging.TRYING} <= set(told)
    monkeypatch.setattr(judging, "look", None)
    assert judge(model, chunks, place, wished(model)) == found
    with pytest.raises(TypeError):
        judge(model, chunks[:-1], place, wished(model))
    with pytest.raises(TypeError):
        judge(model, chunks, place, wished(model), anew=True)


@pytest.mark.parametrize("share", [0.8, 1.5])
def test_layers_that_are_seen_not_to_pay_are_expected_to_stay_dense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """By costs each layer pays; decoded with predictors, a token takes `share` of what it took."""
    path = tiny_model("llama-relu").file.write(tmp_path / "model.gguf")
    model = SolverModel(open_gguf(path), EngineOptions(n_threads=1), LoadEvents())
    pays = TrainedPredictor(torch.ones(1, 1), torch.ones(1, 1), PredictorReport(0.95, 0.01, 0.01, 0.1, 32))
    trials = {i: Trial.of(pays.report) for i in range(model.config.n_layer)}
    monkeypatch.setattr(judging, "_try", lambda *_: (trials, dict.fromkeys(trials, pays), 0.1))
    tried = TriedDecoding(Decoding(1e-3, 0.1, 100), Decoding(share * 1e-3, 0.1, 100))
    monkeypatch.setattr(judging, "decode_with_trials", lambda *_: tried)
    monkeypatch.setattr(judging, "measure_decoding", lambda *_: Decoding(2e-3, 0.1, 100))  # in a bad moment
    wanted = wished(model, here=True)
    costs = wanted.machine()
    cpu = replace(costs.profile.cpu, rates={"any": Rates(1e9, 1e9)}, layer=1e-6, ffn=1e-6, token=1e-5)
    costs = replace(costs, profile=replace(costs.profile, cpu=cpu))
    wanted = replace(wanted, machine=lambda: costs)
    found = judge(model, text_chunks(model, IDS, None), Place(tmp_path / "out"), wanted)
    assert found.sparse > found.dense
    assert found.measured == pytest.approx(1000)
    assert all(layer.sparse is (share < 1) for layer in found.layers)
    expected = min(1.0, share)
    assert found.speeds() == pytest.approx((1000, 1000 / expected), rel=1e-6)


def test_the_faster_of_two_looks_at_the_dense_model_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_model("llama-relu").file.write(tmp_path / "model.gguf")
    found = []
    for number, seconds in enumerate([(2e-3, 3e-3), (5e-3, 4e-3)]):
        model = SolverModel(open_gguf(path), EngineOptions(n_threads=1), LoadEvents())
        looks = iter([Decoding(one, 0.1, 100) for one in seconds])
        monkeypatch.setattr(judging, "measure_decoding", lambda *_, looks=looks: next(looks))
        monkeypatch.setattr(judging, "is_small", lambda _: False)
        place = Place(tmp_path / f"out-{number}")
        found.append(judge(model, text_chunks(model, IDS, None), place, wished(model, here=True)).measured)
    assert found == pytest.approx([500, 250])
