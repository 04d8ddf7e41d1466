"""Experts of a token, of a few and of many, against float64 sums over the dequantised weights, step by step."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cpu.experts.batch import experts_batch, make_expert_workspace
from powerinfer_cli.kernels.cpu.experts.routing import Routes, make_routes, most_tiles, route
from powerinfer_cli.kernels.cpu.experts.token import ExpertRoom, ExpertRows, experts_token
from powerinfer_cli.kernels.cpu.gemm import make_workspace
from powerinfer_cli.kernels.cpu.matvec import token_panels
from powerinfer_cli.kernels.cpu.rows import Bundled
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_vectors
from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.kernels.formats import FORMATS, padded
from powerinfer_cli.kernels.jit.program import assemble
from powerinfer_cli.model import Activation
from powerinfer_cli.model.blocks import Gating, Linear, Neurons, Router
from tests.helpers.kernels.kernel_data import bundled_rows, random_vectors, values_for, weight_rows
from tests.helpers.kernels.teams import team_of
from tests.helpers.rounding import curve_of

pytestmark = pytest.mark.rungs
TEAM = team_of(3)
F32, Q4_0, Q4_K = GGMLType.F32, GGMLType.Q4_0, GGMLType.Q4_K
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Experts:
    """Some experts' rows, and their values by matrix, [E, rows, columns]."""

    neurons: ExpertRows
    n_experts: int
    values: dict[str, Floats]


@dataclass(frozen=True)
class Outcome:
    out: npt.NDArray[np.float32]
    routes: Routes
    room: ExpertRoom


def experts(
    kinds: tuple[GGMLType, GGMLType, GGMLType] = (Q4_0, Q4_0, Q4_0),
    *,
    n_experts: int = 5,
    ff: int = 96,
    n: int = 64,
    gated: bool = True,
    biases: bool = False,
    threads: int = 0,
    activation: Activation = Activation.SILU,
    bundled: bool = False,
) -> Experts:
    """Of gate, up and down of these types; threads: rows are rearranged on use. bundled: all, but for ups that are
    read here and there.
    """
    sizes = {"gate": (ff, n), "up": (ff, n), "down": (n, ff)}
    linears, values = {}, {}
    for seed, (kind, (name, (rows, columns))) in enumerate(zip(kinds, sizes.items(), strict=True)):
        if bundled and (name != "up" or not gated or not activation.has_exact_zeros):
            matrix, numbers = bundled_rows(kind, n_experts * rows, columns, seed, kind_of_bundles=Bundled.WHOLE)
        else:
            matrix, numbers = weight_rows(kind, n_experts * rows, columns, seed, threads)
        bias = np.linspace(-1, 1, n_experts * rows, dtype=np.float32) if biases else None
        linears[name] = Linear(matrix, bias)
        values[name] = numbers.reshape(n_experts, rows, columns)
    gate = linears["gate"] if gated else None
    made = Neurons(n_experts * ff, gate, linears["up"], linears["down"], False, activation, curve=curve_of(activation))
    return Experts(made, n_experts, values)


def logits_of(tokens: int, n_experts: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((tokens, n_experts)).astype(np.float32)


def run(
    made: Experts,
    x: Vectors,
    logits: npt.NDArray[np.float32],
    n_chosen: int = 2,
    *,
    many: bool = False,
    threads: int = 2,
    add: bool = False,
    on_input: bool = False,
) -> Outcome:
    """For the tokens that there are logits of."""
    room, tokens, n, ff = len(x.floats), len(logits), x.n, made.neurons.n_ff // made.n_experts
    routes = make_routes(room, made.n_experts, n_chosen)
    routes.logits.floats[:tokens, : made.n_experts] = logits
    value = make_vectors(room * n_chosen, ff)
    gate, up = (make_vectors(room * n_chosen, ff, records=False) for _ in range(2))
    rooms = ExpertRoom(gate, up, value)
    out = np.full((room, padded(n)), np.nan, np.float32)
    if add:
        out[:tokens] = 1.0
    state, router = np.array([tokens, 0], np.int64), Router(Linear(None, None), n_chosen, Gating.SOFTMAX)
    operands: tuple[Any, ...] = state, x, made.neurons, routes, rooms, out
    if many:
        scratch = make_workspace(3, room, max(n, ff)).scratch
        workspace = make_expert_workspace(most_tiles(room, made.n_experts, n_chosen), max(n, ff), scratch)
        workspace.packed[:], workspace.scratch[:] = 0xFF, 0xFF
        operations = experts_batch(*operands, workspace, add=add, on_input=on_input)
    else:
        panels = None if tokens == 1 else token_panels(threads, max(n, ff))
        operations = experts_token(*operands, add=add, threads=threads, on_input=on_input, panels=panels)
    TEAM.run(assemble([*route(state, router, routes), *operations]).table, threads)
    assert np.isnan(out[tokens:]).all()
    return Outcome(out[:tokens, :n], routes, rooms)


def rows_from(x: Vectors, t: int) -> Vectors:
    """A vector alone."""
    one = make_vectors(2, x.n)
    one.floats[0], one.records[0] = x.floats[t], x.records[t]
    return one


def check(
    made: Experts, tokens: int = 5, n_chosen: int = 2, logits: npt.NDArray[np.float32] | None = None, **how: Any
) -> Outcome:
    x = random_vectors(tokens + 1, made.neurons.up.weight.n_cols)
    logits = logits_of(tokens, made.n_experts) if logits is None else logits
    found = run(made, x, logits, n_chosen, **how)
    chosen, weights = found.routes.chosen.reshape(-1), found.routes.weights.reshape(-1)
    order, ff = found.routes.order[: tokens * n_chosen], made.neurons.n_ff // made.n_experts
    wanted, size = np.zeros(found.out.shape), np.ones(found.out.shape)
    wanted += how.get("add", False)
    inner, outer = (weights, np.ones_like(weights)) if how.get("on_input") else (np.ones_like(weights), weights)
    skips = made.neurons.gate is not None and made.neurons.activation.has_exact_zeros and not how.get("on_input")
    linears = {"gate": made.neurons.gate, "up": made.neurons.up, "down": made.neurons.down}
    for place, pair in enumerate(order):
        expert, token = chosen[pair], pair // n_chosen

        def product(name: str, given: Vectors, row: int, expert: int = expert) -> tuple[Floats, Floats]:
            """And the sum of its terms' sizes."""
            linear, w = linears[name], made.values[name][expert]
            assert linear is not None
            values = values_for(linear.weight.format.type, given)[row]
            bias = 0 if linear.bias is None else linear.bias.reshape(made.n_experts, -1)[expert]
            return w @ values + bias, np.abs(w) @ np.abs(values)

        for name, given in (("gate", found.room.gate), ("up", found.room.up)):
            if linears[name] is not None:
                value, terms = product(name, x, token)
                if name == "up" and skips and not how.get("many"):
                    value = np.where(found.room.gate.floats[place, :ff] > 0, value, 0)
                assert np.abs(given.floats[place, :ff] - inner[pair] * value).max() <= 3e-6 * max(1, terms.max())
        value, terms = product("down", found.room.value, place)
        wanted[token] += outer[pair] * value
        size[token] += outer[pair] * terms
    assert np.abs(found.out - wanted).max(initial=0) <= 3e-6 * size.max(initial=1)
    return found


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("many", [False, True])
def test_every_format(kind: GGMLType, many: bool) -> None:
    f = FORMATS[kind]
    whole = 256 if f.group == 16 or "_K" in kind.name or kind is GGMLType.IQ4_XS else 96
    check(experts((kind, kind, kind), n=35 if f.is_float else whole, ff=51 if f.is_float else whole), many=many)
    check(experts((kind, kind, kind), n=256, ff=256, threads=3), many=many)
    if f.whole:
        check(experts((kind, kind, kind), n=whole, ff=whole, bundled=True), many=many)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(("ff", "n"), [(1, 33), (70, 1), (2100, 40), (40, 2100)])
def test_odd_sizes(many: bool, ff: int, n: int) -> None:
    check(experts((F32, F32, F32), ff=ff, n=n), many=many)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("tokens", [1, 2, FEW, 50])
@pytest.mark.parametrize(("n_experts", "n_chosen"), [(1, 1), (7, 3), (4, 4), (40, 1)])
def test_numbers_of_tokens_and_experts(many: bool, tokens: int, n_experts: int, n_chosen: int) -> None:
    check(experts(n_experts=n_experts), tokens if many else min(tokens, FEW), n_chosen, many=many)


@pytest.mark.parametrize("many", [False, True])
def test_mixed_types(many: bool) -> None:
    for kinds in ((F32, Q4_0, Q4_0), (Q4_0, F32, GGMLType.F16), (GGMLType.Q8_0, GGMLType.Q4_1, F32)):
        check(experts(kinds), 20 if many else FEW, many=many)
    q6, others = GGMLType.Q6_K, ((Q4_0, GGMLType.Q5_0, Q4_0), (GGMLType.Q3_K, GGMLType.Q6_K, Q4_K))
    for kinds in ((Q4_0, q6, Q4_K), (Q4_K, Q4_0, q6), *others):  # their tokens lie in other panels, or are offset
        check(experts(kinds, n=256, ff=256, bundled=True), 20 if many else FEW, many=many)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_kinds_of_neurons(many: bool, gated: bool) -> None:
    for activation in (kind for kind in Activation if gated or not kind.bends_up):
        check(experts(gated=gated, biases=True, activation=activation), 8, many=many)
        check(experts(gated=gated, biases=True, activation=activation, bundled=True), 8, many=many)
    for bundled in (False, True):
        check(experts(biases=True, bundled=bundled), 8, many=many, add=True)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_weights_of_what_experts_read(many: bool, gated: bool) -> None:
    check(experts(gated=gated), 8, many=many, on_input=True, add=True)


@pytest.mark.parametrize("kind", [F32, Q4_0, GGMLType.Q6_K], ids=lambda kind: kind.name)
@pytest.mark.parametrize("tokens", [1, FEW])
def test_up_rows_of_closed_neurons_are_not_read(kind: GGMLType, tokens: int) -> None:
    """Of experts with exact zeros: they may hold anything. Whoever is alone gets the same to the bit."""
    made, x = experts((F32, kind, F32), n=256, ff=150, activation=Activation.RELU), random_vectors(FEW, 256)
    logits = logits_of(tokens, made.n_experts)
    whole, up = run(made, x, logits), made.neurons.up.weight
    alone = [run(made, rows_from(x, t), logits[t : t + 1]).out[0] for t in range(tokens)]
    opened = np.zeros((made.n_experts, 150), np.bool_)
    for place, pair in enumerate(whole.routes.order[: tokens * 2]):
        opened[whole.routes.chosen.reshape(-1)[pair]] |= whole.room.gate.floats[place, :150] > 0
    assert 0 < opened.sum() < opened[opened.any(axis=1)].size
    rows = up.data[: up.n_rows * up.stride].reshape(up.n_rows, -1)
    rows[~opened.reshape(-1)] = 0xFF  # floats that are no numbers
    found = run(made, x, logits).out
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, np.stack(alone))


@pytest.mark.parametrize("many", [False, True])
def test_all_tokens_to_one_expert_and_none_to_another(many: bool) -> None:
    tokens = 40 if many else FEW
    logits = logits_of(tokens, 5)
    logits[:, 3], logits[:, 1] = 9.0, -9.0
    check(experts(bundled=True), tokens, 2, logits, many=many)
    found = check(experts(), tokens, 2, logits, many=many)
    assert (found.routes.chosen[:tokens] == 3).any(axis=1).all()
    assert not (found.routes.chosen == 1).any()


@pytest.mark.parametrize(("kind", "bundled"), [(F32, False), (Q4_0, False), (Q4_0, True), (Q4_K, True)])
def test_alone_as_in_company(kind: GGMLType, bundled: bool) -> None:
    made = experts((kind, kind, kind), n=256, ff=256, biases=True, bundled=bundled)
    x, logits = random_vectors(30, 256), logits_of(30, 5)
    few, many = run(made, x, logits[:FEW]), run(made, x, logits, many=True)
    for t in range(FEW):
        one = rows_from(x, t)
        np.testing.assert_array_equal(run(made, one, logits[t : t + 1]).out[0], few.out[t])
        np.testing.assert_array_equal(run(made, one, logits[t : t + 1], many=True).out[0], many.out[t])


def test_same_bits_whatever_the_threads() -> None:
    x, logits, rows, bundles = random_vectors(30, 64), logits_of(30, 5), experts(ff=160), experts(ff=160, bundled=True)
    for made, many, tokens in ((rows, False, FEW), (rows, True, 30), (bundles, False, FEW)):
        one, three, sixteen = (run(made, x, logits[:tokens], many=many, threads=n) for n in (1, 3, 16))
        np.testing.assert_array_equal(one.out, three.out)
        np.testing.assert_array_equal(one.out, sixteen.out)  # in shares for more threads than there are
