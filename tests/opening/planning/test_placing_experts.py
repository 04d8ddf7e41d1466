"""What of a mixture of experts goes to GPUs, rehearsed on the CPU: by budget, by layers, and by hand."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import UsageError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import Model, load_model
from powerinfer_cli.opening import PlacementWishes
from powerinfer_cli.opening.companions import Companions
from powerinfer_cli.opening.planning import plan_job
from powerinfer_cli.opening.planning.placing import PlacingResult, place
from powerinfer_cli.placement import (
    HEAT,
    MAIN_MEMORY,
    ActivationStatistics,
    ModelBytes,
    Plan,
    device_use,
    gpuidx_path,
    save_routes,
)
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from powerinfer_cli.runtime.device.bytes import model_bytes, staging_bytes
from solver.placing import Link, load_profile
from solver.state import read_state
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.placing.placed_model import bytes_alone_count, routed_model
from tests.helpers.placing.route_traces import drawn_routes
from tests.helpers.rounding import check_logits

GIB = 1 << 30
OPTIONS = EngineOptions(n_ctx=128, n_threads=1, type_k="f32", type_v="f32")


@dataclass
class Case:
    """A tiny model of experts, placed as somebody wishes."""

    gguf: GGUFFile
    model: Model
    reference: np.ndarray

    @property
    def sizes(self) -> ModelBytes:
        return model_bytes(self.model, OPTIONS, 128)

    def place(
        self,
        budget: int = GIB,
        statistics: ActivationStatistics | None = None,
        traced: Path | None = None,
        **wishes: object,
    ) -> tuple[PlacingResult, list[str]]:
        notes: list[str] = []
        asked = PlacementWishes(vram_budget=(budget,), device="cpu", **wishes)  # type: ignore[arg-type]  # any wish
        beside = Companions(statistics, None, traced=traced)
        return place(self.gguf, self.model, OPTIONS, asked, beside, LoadEvents(notes.append)), notes[1:]

    def plan(self, budget: int = GIB, **wishes: object) -> Plan:
        """Which says what the model says without a GPU."""
        found = self.place(budget, **wishes)[0].placement
        assert found is not None
        engine = Engine(self.model, OPTIONS, placement=found)
        rows = [engine.prefill(PROMPT[:20]), *map(engine.decode, PROMPT[20:24])]
        check_logits(np.stack(rows), self.reference[19:24])
        return found.plan

    def hot(self, budget: int = GIB, **wishes: object) -> list[int | None]:
        """Hot experts by layer, None: it is in main memory."""
        plan = self.plan(budget, **wishes)
        return [None if one.device == MAIN_MEMORY else one.hot.size for one in plan.layers]


def case_of(name: str, folder: Path) -> Case:
    tiny = tiny_family(name)
    gguf = tiny.file.open(folder)
    return Case(gguf, load_model(gguf), tiny.reference)


@pytest.fixture
def moe(tmp_path: Path) -> Case:
    return case_of("qwen3moe", tmp_path)


def experts_of(case: Case) -> list[int]:
    return [layer.ffn.n_groups for layer in case.model.layers]


def test_all_that_fits(moe: Case) -> None:
    assert moe.hot() == experts_of(moe)
    (found, notes), n_layer = moe.place(), len(moe.model.layers)
    assert notes == []
    assert found.lines[0].startswith(f"rehearsed on the CPU, {n_layer} of {n_layer} layers and the head: ")


def test_where_nobody_has_counted_all_are_alike(moe: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides work, where one is as fast as the other: not all of some layers and none of the others."""
    sheet = load_profile(plan_job.STAND_IN)
    alike = replace(sheet, gpus=(replace(sheet.cpu, token=0.0),), link=Link(1e15, 0.0))
    monkeypatch.setattr(plan_job, "load_profile", lambda _: alike)
    sizes, experts = moe.sizes, experts_of(moe)
    assert moe.hot(sizes.total - sizes.layers[0].ffn) == [count // 2 for count in experts]
    _, notes = moe.place(sizes.total - sizes.layers[0].ffn, reset_gpu_index=True)
    assert notes[-1].startswith("nobody counted which experts are chosen")


def test_all_layers_experts_give_way_by_hand(moe: Case) -> None:
    """The budget holds all but the head, one layer's experts and three of another's: of each as many are there."""
    sizes, experts, by_hand = moe.sizes, experts_of(moe), {"override_tensor": (r"^output\.=cpu",)}
    less = sizes.total - sizes.head - sizes.layers[0].ffn - 3 * sizes.layers[1].neuron
    each = (sum(experts) - experts[0] - 3) // len(experts)
    assert moe.hot(less, **by_hand) == [each] * len(experts)
    found, notes = moe.place(less, **by_hand)
    assert notes == ["the budget does not hold all experts: each layer has as many there as the others"]
    assert f"{each / experts[0]:.1%} of their experts: " in found.lines[0]
    assert moe.hot(sizes.total - sizes.head - 1, **by_hand) == [count - 1 for count in experts]
    assert moe.hot(sizes.total - sizes.head, **by_hand) == experts


def test_a_budget_for_attention_but_no_expert(moe: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_alone_count(monkeypatch)
    sizes = moe.sizes
    assert moe.hot(sizes.total - sum(layer.ffn for layer in sizes.layers)) == [0] * len(sizes.layers)


def test_a_budget_for_nothing(moe: Case) -> None:
    found, notes = moe.place(moe.sizes.scratch)
    assert found.placement is None
    assert "does not hold one layer: everything stays in main memory" in notes[0]


@pytest.mark.parametrize("name", ["qwen3moe", "deepseek3"])
def test_whole_layers(tmp_path: Path, name: str) -> None:
    case = case_of(name, tmp_path)
    experts = experts_of(case)
    assert case.hot(gpu_layers=1) == [*[None] * (len(experts) - 1), experts[-1]]


@pytest.mark.parametrize(
    ("wishes", "kept"),
    [
        ({"cpu_moe": True}, range(9)),
        ({"n_cpu_moe": 1}, [0]),
        ({"n_cpu_moe": 0}, []),
        ({"n_cpu_moe": 99}, range(9)),
        ({"override_tensor": ("exps=CPU",)}, range(9)),
        ({"override_tensor": (r"blk\.1\.ffn_(up|down)_exps=cpu",)}, [1]),
        ({"override_tensor": (r"blk\.0\..*exps=gpu",), "cpu_moe": True}, range(1, 9)),
        ({"override_tensor": (r"blk\.0\..*exps=gpu,exps=cpu",)}, range(1, 9)),
    ],
)
def test_experts_by_hand(moe: Case, wishes: dict[str, object], kept: list[int]) -> None:
    experts = experts_of(moe)
    assert moe.hot(**wishes) == [0 if i in kept else count for i, count in enumerate(experts)]


def test_whole_layers_and_the_head_by_hand(moe: Case) -> None:
    experts = experts_of(moe)
    assert moe.hot(override_tensor=(r"blk\.1\.=cpu",)) == [experts[0], None, *experts[2:]]
    plan = moe.plan(override_tensor=(r"^output=cpu",))
    assert plan.output == MAIN_MEMORY
    assert plan.hot_counts == tuple(experts)


def test_what_is_kept_makes_room(moe: Case) -> None:
    """Without the first layer's experts the budget holds all the rest."""
    sizes = moe.sizes
    assert moe.hot(sizes.total - sizes.layers[0].ffn, n_cpu_moe=1) == [0, *experts_of(moe)[1:]]


def test_dense_layers_have_no_experts_to_keep(tmp_path: Path) -> None:
    case = case_of("deepseek3", tmp_path)
    experts = experts_of(case)
    assert case.hot(cpu_moe=True) == [experts[0], *[0] * (len(experts) - 1)]


@pytest.mark.parametrize("wish", [{"cpu_moe": True}, {"n_cpu_moe": 2}])
def test_a_model_without_experts(tmp_path: Path, wish: dict[str, object]) -> None:
    case = case_of("llama", tmp_path)
    found, notes = case.place(**wish)
    assert "has no effect: the model has no experts" in notes[0]
    assert found.placement is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("exbs=cpu", r"-ot 'exbs=cpu': no tensor of model.gguf has such a name"),
        ("exps=disk", r"-ot 'exps=disk': must be a regular expression of tensors' names, =, and cpu or gpu"),
        ("(exps=cpu", r"-ot '\(exps=cpu': must be a regular"),
        ("=cpu", r"-ot '=cpu': must be"),
        ("exps", r"-ot 'exps': must be"),
        ("attn_q=cpu", r"-ot 'attn_q=cpu' takes blk.0.attn_q.weight from layer 0, whose tensors lie together"),
    ],
)
def test_overrides_that_cannot_be(moe: Case, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        moe.place(override_tensor=(text,))
    assert "\n" not in str(error.value)


def test_an_override_of_nothing_where_nothing_goes_to_a_gpu(moe: Case) -> None:
    with pytest.raises(UsageError, match=r"'exbs=cpu': no tensor of model\.gguf"):
        moe.place(0, override_tensor=("exps=cpu,exbs=cpu",))


def counted(case: Case, first: int = 5) -> ActivationStatistics:
    """Of 100 tokens, of which nearly all need expert `first` of a layer, and the next one; of layers, alike."""
    counts = []
    for layer, count in enumerate(experts_of(case)):
        uses = np.full(count, 10.0)
        uses[[(first + layer) % count, (first + layer + 1) % count]] = 90.0
        counts.append(uses)
    return ActivationStatistics(tuple(counts), 100)


def test_the_most_used_are_hot(moe: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody has counted; the plan is kept, and used as long as the counts are these. By hand, too."""
    bytes_alone_count(monkeypatch)
    sizes, counts = moe.sizes, counted(moe)
    room = sizes.total - sum(layer.ffn - 2 * layer.neuron for layer in sizes.layers)
    plan = moe.plan(room, statistics=counts)
    for layer, (where, uses) in enumerate(zip(plan.layers, counts.counts, strict=True)):
        assert where.hot.tolist() == np.flatnonzero(uses > 50).tolist(), layer
    index = gpuidx_path(moe.gguf.path)
    assert moe.place(room, statistics=counts)[1] == [f"plan: {index}"]
    other = counted(moe, 2)
    assert "made from other activation statistics" in moe.place(room, statistics=other)[1][0]
    assert moe.plan(room, statistics=other).layers[0].hot.tolist() == [2, 3]
    less = sizes.total - sizes.head - sum(layer.ffn - 2 * layer.neuron for layer in sizes.layers)
    by_hand = moe.plan(less, statistics=counts, override_tensor=(r"^output\.=cpu",))
    assert by_hand.layers[0].hot.tolist() == [5, 6]


def test_counted_but_no_room_for_an_expert(moe: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_alone_count(monkeypatch)
    room = moe.sizes.scratch + moe.sizes.layers[-1].fixed
    others = [None] * (len(moe.sizes.layers) - 1)
    assert moe.hot(room, statistics=counted(moe), disable_gpu_index=True) == [*others, 0]
    says = "the budget holds what is not experts: all experts stay in main memory"
    _, notes = moe.place(room, statistics=counted(moe), disable_gpu_index=True)
    assert notes[-1] == says
    _, notes = moe.place(room + staging_bytes(moe.model, HEAT), adaptive="on")
    assert notes[-2] == says
    assert notes[-1].startswith("adaptive: off, as no layer")


def some_of_each(case: Case) -> int:
    """A budget that holds everything but half of the experts, and what these need on their way."""
    sizes = case.sizes
    return sizes.total - sum(layer.ffn for layer in sizes.layers) // 2 + staging_bytes(case.model, HEAT)


def test_what_adapts_has_slots_in_each_layer_and_keeps_the_budget(moe: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_alone_count(monkeypatch)
    budget = some_of_each(moe)
    hot = moe.hot(budget, adaptive="on")
    assert len(set(hot)) == 1
    assert 0 < (hot[0] or 0) < experts_of(moe)[0]
    found = moe.place(budget, adaptive="on")[0].placement
    assert found is not None
    assert found.adaptive == HEAT
    staging, sizes = staging_bytes(moe.model, HEAT), moe.sizes
    assert device_use(sizes, found.plan, 0).total + staging <= budget
    assert staging >= sizes.layers[0].neuron
    elsewhere = moe.place(budget, adaptive="on", kv_offload=False)[0].placement
    assert elsewhere is not None
    assert {layer.pages for layer in elsewhere.plan.layers} == {0}
    (still, _), (whole, notes) = moe.place(budget), moe.place(adaptive="on")
    assert still.placement is not None
    assert whole.placement is not None
    assert still.placement.adaptive is whole.placement.adaptive is None
    assert notes[0].startswith("adaptive: off, as no layer")


def test_all_experts_but_no_head(tmp_path: Path) -> None:
    """What adapts has nothing to choose, and nobody is told that experts are missing."""
    gguf = routed_model().open(tmp_path)
    case = Case(gguf, load_model(gguf), np.empty(0))
    sizes = case.sizes
    experts = sum(layer.ffn for layer in sizes.layers)
    assert sizes.head > experts
    found, notes = case.place(sizes.total + staging_bytes(case.model, HEAT) - experts - 1, adaptive="on")
    assert found.placement is not None
    assert found.placement.plan.hot_counts == tuple(experts_of(case))
    assert [note.split(":")[0] for note in notes[:-1]] == ["the output head stays in main memory"]
    assert notes[-1].startswith("adaptive: off, as no layer is divided")


@pytest.mark.parametrize("topics", [1, 4])
def test_the_trace_says_whether_to_adapt(moe: Case, tmp_path: Path, topics: int) -> None:
    """Where topics change, heat hits more than what was hot before; where they do not, it does not pay."""
    budget, n_experts = some_of_each(moe), experts_of(moe)[0]
    notes = moe.place(budget, adaptive="auto")[1]
    assert "adaptive: off, as no route trace tells whether it pays" in notes[-1]
    n_layer = len(moe.model.layers)
    k = moe.model.n_chosen[0]
    trace = drawn_routes(1200, n_experts=n_experts, n_chosen=k, layers=n_layer, skew=1.5, topics=topics, stay=150)
    save_routes(tmp_path, trace)
    found, notes = moe.place(budget, traced=tmp_path / "routes.npz", adaptive="auto")
    assert found.placement is not None
    assert (found.placement.adaptive is None) == (topics == 1)
    assert "static" in notes[-1]
    assert "belady" in notes[-1]


def test_embeddings_stay_in_main_memory(moe: Case) -> None:
    assert moe.place(override_tensor=(".*=gpu",))[1] == moe.place(override_tensor=("token_embd=cpu",))[1] == []
    told = "-ot 'token_embd=gpu' has no effect: rows of token_embd.weight are read from main memory"
    assert moe.place(override_tensor=("token_embd=gpu",))[1] == [told]


@pytest.mark.parametrize(("of", "n_chosen", "fits"), [("this", 3, True), ("another", 3, False), ("this", 1, False)])
def test_a_trace_of_another_model(moe: Case, tmp_path: Path, of: str, n_chosen: int, *, fits: bool) -> None:
    """Of the same layers and experts: it is not what the statistics beside it were counted from."""
    read_state(tmp_path).with_stage("activation", {"model": "this"}, {})
    layers, n_experts = len(moe.model.layers), experts_of(moe)[0]
    save_routes(tmp_path, replace(drawn_routes(9, n_experts=n_experts, n_chosen=n_chosen, layers=layers), model=of))
    notes: list[str] = []
    found = Companions(None, None, traced=tmp_path / "routes.npz").routes(moe.model, notes.append)
    assert (found is not None) == fits
    assert [note.endswith("npz: a route trace of another model") for note in notes] == [True] * (not fits)


def test_why_nothing_is_on_the_gpu(moe: Case) -> None:
    """So small a model is faster without, by the data sheet: a new plan says so, and one that is kept."""
    room = moe.sizes.total - sum(layer.ffn - 2 * layer.neuron for layer in moe.sizes.layers)
    for _ in range(2):
        found, notes = moe.place(room, statistics=counted(moe))
        assert found.placement is None
        assert notes[-1].startswith("everything stays in main memory: ")
