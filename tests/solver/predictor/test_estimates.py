"""What a short look at the bundled model promises, against what its whole text comes to."""

from pathlib import Path

import pytest
import torch

from powerinfer_cli.gguf_io import BLOCK, GGMLType, open_gguf
from powerinfer_cli.model import Model, load_model
from powerinfer_cli.runtime import Engine, EngineOptions
from powerinfer_cli.text import Tokenizer
from scripts.demo_model.run import MODEL_NAME
from solver.predictor import PredictorOptions, RankOptions
from solver.predictor.ranks import train_at_best_rank
from solver.predictor.samples import Samples
from solver.predictor.teacher import neuron_rows
from solver.predictor.training import layer_costs
from solver.profile.recording import Floats
from tests.helpers.exact_sparse import exact_sparse

ROOT = Path(__file__).parents[3]
BUNDLED = ROOT / "powerinfer_cli" / "bundled" / MODEL_NAME
LAYERS = (0, 3)
LOOKED_AT = 2048  # tokens


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(open_gguf(BUNDLED))


@pytest.fixture(scope="module")
def text(model: Model) -> dict[int, Samples]:
    """All of the held-out stories, as some layers see them."""
    tokenizer = Tokenizer.from_gguf(BUNDLED)
    stories = (ROOT / "tests" / "data" / "heldout_stories.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(stories, add_special=False, parse_special=False)
    seen: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {layer: [] for layer in LAYERS}

    def tap(layer: int, residual: Floats, activations: Floats) -> None:
        if layer in seen:
            seen[layer].append((torch.tensor(residual), torch.tensor(activations) != 0))

    engine = Engine(model, EngineOptions(n_ctx=256, all_active=True))
    for begin in range(0, len(ids), 256):
        engine.record(ids[begin : begin + 256], tap)
    return {
        n: Samples.of(torch.cat([x for x, _ in parts]), torch.cat([a for _, a in parts])) for n, parts in seen.items()
    }


@pytest.mark.parametrize("number", LAYERS)
def test_a_short_look_promises_what_comes_of_it(model: Model, text: dict[int, Samples], number: int) -> None:
    """Within a tenth of a token's bytes, and no less than a twentieth fewer."""
    layer, samples = model.layers[number], text[number]
    costs = layer_costs(layer, model.config)
    assert len(samples) > 3 * LOOKED_AT
    found = []
    for part, share in ((samples[:LOOKED_AT], 0.25), (samples, 0.05)):
        options = PredictorOptions(validation_share=share)
        made = train_at_best_rank(part, neuron_rows(layer, part.unit_inputs()), costs, options, RankOptions())
        assert made.report.recall >= 0.95
        found.append(costs.of_report(made.report, samples.n_ff))
    promised, came = found
    assert 0.95 * came <= promised <= 1.1 * came
    assert came < 0.4 * costs.dense


@pytest.mark.parametrize(("kind", "turned"), [(GGMLType.Q4_0, GGMLType.Q8_0), (GGMLType.F16, GGMLType.F16)])
def test_a_neuron_costs_its_row_of_the_turned_matrix(tmp_path: Path, kind: GGMLType, turned: GGMLType) -> None:
    """Which is wider where types have few bits; the dense layer reads the file's."""
    read = load_model(open_gguf(exact_sparse(n_ff=192)[1].stored_as(kind).write(tmp_path / "dense.gguf")))
    costs = layer_costs(read.layers[0], read.config)
    row, wide = (64 // BLOCK[one][0] * BLOCK[one][1] for one in (kind, turned))
    assert costs.neuron == 2 * row + wide
    assert costs.spared == row + wide
    assert costs.dense == 192 * 3 * row
