"""How long a run may take, and what is left out for that."""

from pathlib import Path

import pytest

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import Activation
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from solver.predictor import TrainOptions
from solver.run import Making, _Run
from solver.schedule import Schedule
from solver.stages import Place, SolverModel
from solver.state import read_state
from solver.verdict import Kind, Verdict
from solver.verdict.estimate import LayerEstimate
from tests.helpers.tiny_models import tiny_model

LAYER = LayerEstimate(0.1, 0.15, 64, True, 1e6, 4e5, 3e5, 8e5)


def verdict(reading: float) -> Verdict:
    """reading: seconds of a token."""
    return Verdict(
        Kind.EXACT_ZEROS, Activation.RELU, (LAYER, LAYER), 512, None, None, 3e6, 1.8e6, 1.6e6, 2.6e6, "Q8_0", 0.006,
        100.0, 150.0, 80.0, 0.1, 0.0, "this machine", 4.5, 1, reading, 2.0, 1.5, 1e9,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reading", "most", "words"),
    [
        (0.0001, 1 << 20, []),
        (0.03, 32768, ["--time-budget 30: a text of 32,768 tokens, not 49,152"]),
        (1.0, 8192, ["tokens, not 49,152; even so about 205 min will be needed"]),
    ],
)
def test_a_text_is_as_long_as_there_is_time_for(tmp_path: Path, reading: float, most: int, words: list[str]) -> None:
    notes: list[str] = []
    model = SolverModel(
        open_gguf(tiny_model("llama-relu").file.write(tmp_path / "model.gguf")),
        EngineOptions(n_threads=1),
        LoadEvents(note=notes.append),
    )
    place = Place(tmp_path / "out")
    run = _Run(model.gguf, model, place, Making(), model.events, Schedule())
    assert run._most_tokens() is None  # nobody knows how fast
    read_state(place.folder).with_stage("verdict", {"model": model.fingerprint}, verdict(reading).record())
    assert run._most_tokens() == most
    assert run._without_steps(verdict(reading).rates, most) <= 1800 or most == 8192
    assert len(notes) == bool(words)
    for word in words:
        assert word in notes[0]


def test_gradient_steps_end_with_the_budget() -> None:
    assert TrainOptions(until=5.0).deadline() == 5.0
    assert TrainOptions(time_budget=0.0).deadline() < TrainOptions().deadline() - 1700
