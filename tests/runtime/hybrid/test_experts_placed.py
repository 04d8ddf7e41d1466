"""Mixtures of experts divided by a plan, the GPU's part rehearsed on the CPU, against the torch model."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.model import load_model
from powerinfer_cli.model.registry import ARCHITECTURES
from powerinfer_cli.placement import MAIN_MEMORY, Placement
from powerinfer_cli.runtime import Engine, EngineOptions, Piece, Wanted
from tests.helpers.families import EXPERTS, PROMPT, TinyFamily, tiny_family
from tests.helpers.families.family import tiny
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.devices import DEVICES, waits_of
from tests.helpers.placing.plans import plan_of
from tests.helpers.rounding import check_logits

KNOWN = [name for name, family in EXPERTS.items() if family.arch in ARCHITECTURES]
KNOWN += ["lfm2moe", "qwen3next", "qwen35moe", "nemotron_h_moe", "nemotron_h_moe-latents"]
SHARES = {"none": 0.0, "some": 0.4, "all": 1.0}


@pytest.fixture(scope="module", params=KNOWN)
def family(request: pytest.FixtureRequest) -> TinyFamily:
    return tiny_family(request.param)


def placed(
    file: ModelFile, folder: Path, shares: list[float], output: int = 0, *, second: int = 99, **options: object
) -> Engine:
    """share: of the experts that are hot, by layer, below 0: the layer is in main memory; dense layers are whole. From
    layer `second` on they are on the second device.
    """
    gguf = file.open(folder)
    layers = load_model(gguf).layers
    wanted = (shares * len(layers))[: len(layers)]
    devices = [MAIN_MEMORY if share < 0 else int(i >= second) for i, share in enumerate(wanted)]
    hot = [max(0.0, share) if one.ffn.divisible else 1.0 for share, one in zip(wanted, layers, strict=True)]
    plan = plan_of(file, devices, hot, output, groups=[one.ffn.n_groups for one in layers])
    given = {"n_ctx": 128, "n_ubatch": 32, "n_threads": 2, "type_k": "f32", "type_v": "f32"} | options
    return Engine.load(gguf, EngineOptions(**given), placement=Placement(plan, DEVICES))  # type: ignore[arg-type]  # any option


def told(engine: Engine) -> np.ndarray:
    """A prompt in batches with all its logits, token by token, and again in a batch."""
    rows = [*engine.logits(PROMPT[:40]), *map(engine.decode, PROMPT[40:60])]
    return np.stack([*rows, engine.prefill(PROMPT[60:])])


@pytest.mark.parametrize("share", SHARES)
def test_hot_experts(family: TinyFamily, tmp_path: Path, share: str) -> None:
    engine = placed(family.file, tmp_path, [SHARES[share]])
    check_logits(told(engine), family.reference[[*range(60), -1]])


@pytest.mark.parametrize("shares", [[0.5, 0.0], [1.0, 0.25], [-1.0, 0.5], [0.25, -1.0]])
@pytest.mark.parametrize("name", ["qwen2moe", "gpt-oss", "smallthinker"])
def test_layers_of_other_shares(tmp_path: Path, name: str, shares: list[float]) -> None:
    """Also with the head in main memory, and where the system has the file's rows as they are."""
    one = tiny_family(name)
    wanted = one.reference[[*range(60), -1]]
    for output, repack in ((0, True), (MAIN_MEMORY, False)):
        check_logits(told(placed(one.file, tmp_path, shares, output, repack=repack)), wanted)


@pytest.mark.parametrize("name", ["smallthinker", "deepseek3"])
def test_two_devices(tmp_path: Path, name: str) -> None:
    one = tiny_family(name)
    engine = placed(one.file, tmp_path, [0.25, 0.5], 1, second=1)
    check_logits(told(engine), one.reference[[*range(60), -1]])


def test_who_waits(tmp_path: Path) -> None:
    """Once a layer with cold experts, and once for the logits."""
    file = tiny_family("qwen3moe").file
    n_layer = file.n_layer
    for shares, waits in (([1.0], 0), ([0.5], n_layer), ([0.0], n_layer), ([0.5] + [1.0] * (n_layer - 1), 1)):
        engine = placed(file, tmp_path, shares)
        engine.prefill(PROMPT[:5])
        before = waits_of(engine)
        engine.decode(PROMPT[5])
        assert waits_of(engine) - before == waits + 1


@pytest.mark.parametrize("name", ["mixtral", "deepseek3"])
def test_in_company(tmp_path: Path, name: str) -> None:
    """A few tokens of several texts, whose experts are others, and whole prompts beside them."""
    one = tiny_family(name)
    engine = placed(one.file, tmp_path, [0.4], n_sequences=3, n_ctx=384)
    texts, at, found = [PROMPT, PROMPT[:30], PROMPT[:45]], [0, 0, 0], [[], [], []]
    for sizes in ((20, 1, 0), (1, 25, 1), *[(1, 0, 1)] * 3, *[(1, 1, 1)] * 4, (5, 0, 3)):
        pieces = []
        for i, size in enumerate(sizes):
            if size:
                pieces.append(Piece(i, texts[i][at[i] : at[i] + size], Wanted.ALL))
                at[i] += size
        for piece, rows in zip(pieces, engine.step(pieces), strict=True):
            found[piece.sequence].append(rows)
    for i in range(3):
        check_logits(np.concatenate(found[i]), one.reference[: at[i]])


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "MXFP4", "F16"])
def test_types_of_weights(tmp_path: Path, kind: str) -> None:
    """On a device inputs are not rounded: all hot is as the plain twin; some hot lies between that and the CPU."""
    file = tiny("olmoe", EXPERTS["olmoe"], intermediate_size=96).file.stored_as(GGMLType[kind])
    options = EngineOptions(n_ctx=128, n_threads=1, type_k="f32", type_v="f32", reference=True)
    exact = told(Engine.load(file.open(tmp_path), options))
    check_logits(told(placed(file, tmp_path, [1.0])), exact)
    for repack in (True, False):
        some = told(placed(file, tmp_path, [0.4], repack=repack))
        assert np.corrcoef(some.ravel(), exact.ravel())[0, 1] > 0.98


def test_ties_go_to_the_first(tmp_path: Path) -> None:
    """A router that likes all alike chooses the first experts, whether these are hot or cold."""
    file = tiny_family("mixtral").file
    routers = {key: np.zeros_like(data) for key, data in file.tensors.items() if key.endswith("ffn_gate_inp.weight")}
    tied = file.with_tensors(routers)
    options = EngineOptions(n_ctx=128, n_threads=1, type_k="f32", type_v="f32", reference=True)
    wanted = told(Engine.load(tied.open(tmp_path), options))
    for share in SHARES.values():
        check_logits(told(placed(tied, tmp_path, [share])), wanted)


@pytest.mark.parametrize("expert", [0, 4])
def test_all_tokens_to_one_expert(tmp_path: Path, expert: int) -> None:
    """Of five, first or last, hot or cold; what nobody chooses is not computed, on the CPU alone not even read."""
    file = tiny_family("mixtral").file.with_metadata(expert_used_count=1)
    bias = np.full(5, -1e4, np.float32)
    bias[expert] = 0
    routers = [key for key in file.tensors if key.endswith("ffn_gate_inp.weight")]
    one = file.with_tensors({key.replace("weight", "bias"): bias for key in routers})
    others = np.arange(5) != expert

    def spoilt(by: float) -> ModelFile:
        experts = {key: data.copy() for key, data in one.tensors.items() if key.endswith("_exps.weight")}
        for data in experts.values():
            data[others] = by
        return one.with_tensors(experts)

    options = {"n_ctx": 128, "n_threads": 1, "type_k": "f32", "type_v": "f32"}
    wanted = told(one.engine(tmp_path, reference=True, **options))
    check_logits(told(spoilt(np.nan).engine(tmp_path, **options)), wanted)
    for share in SHARES.values():
        check_logits(told(placed(spoilt(1e3), tmp_path, [share])), wanted)


def test_every_expert_is_chosen(tmp_path: Path) -> None:
    """As many as there are, on the CPU alone and divided."""
    file = tiny_family("mixtral").file.with_metadata(expert_used_count=5)
    options = {"n_ctx": 128, "n_threads": 1, "type_k": "f32", "type_v": "f32"}
    wanted = told(file.engine(tmp_path, reference=True, **options))
    check_logits(told(file.engine(tmp_path, **options)), wanted)
    check_logits(told(placed(file, tmp_path, [SHARES["some"]])), wanted)


def test_down_matrices_whose_rows_are_neurons(tmp_path: Path) -> None:
    """As SmallThinker's own tool may write them: the same to the bit, on the CPU alone and divided."""
    file = tiny_family("smallthinker").file
    turned = {name: data.swapaxes(1, 2).copy() for name, data in file.tensors.items() if "ffn_down_exps" in name}
    options = {"n_ctx": 128, "n_threads": 1, "type_k": "f32", "type_v": "f32"}
    found, wanted = (told(one.engine(tmp_path, **options)) for one in (file.with_tensors(turned), file))
    np.testing.assert_array_equal(found, wanted)
    found, wanted = (told(placed(one, tmp_path, [SHARES["some"]])) for one in (file.with_tensors(turned), file))
    np.testing.assert_array_equal(found, wanted)


def test_shift_and_restore(tmp_path: Path) -> None:
    """Some hot as none on a device."""
    file = tiny_family("deepseek3").file
    plain = Engine.load(file.open(tmp_path), EngineOptions(n_ctx=128, n_threads=1, type_k="f32", type_v="f32"))
    found = []
    for engine in (plain, placed(file, tmp_path, [0.5])):
        engine.prefill(PROMPT[:50])
        engine.shift(4, 22)
        rows = [engine.decode(PROMPT[50])]
        engine.reset()
        engine.prefill(PROMPT[:40])
        saved = engine.save(0)
        engine.reset()
        engine.restore(0, PROMPT[:40], saved)
        found.append(np.stack([*rows, engine.decode(PROMPT[40])]))
    check_logits(*found)
