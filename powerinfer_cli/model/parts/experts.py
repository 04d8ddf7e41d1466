"""The tensors of a layer whose FFN is a mixture of experts: its router, its experts, its shared expert."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import MadeTensor, Tensor, chosen_rows, transposed
from powerinfer_cli.model.blocks import FFN, ExpertLatents, Gating, Linear, Neurons, Routed, Router, SharedExpert
from powerinfer_cli.model.keys import MAX_SIZE
from powerinfer_cli.model.tensors import LayerReader
from powerinfer_cli.model.turned import down_type

__all__ = ["MOST_EXPERTS", "expert_width", "has_experts", "leads_dense", "routed", "shared_width"]

MOST_EXPERTS = 1 << 12
_NO_GATING = 0  # a file that does not say
_GATINGS = {1: Gating.SOFTMAX, 2: Gating.SIGMOID, 3: Gating.SOFTMAX_OF_CHOSEN}


def has_experts(t: LayerReader) -> bool:
    """Whether the file says so, of architectures that come with and without."""
    return t.keys.integer("expert_count", 0, high=MOST_EXPERTS) > 0


def leads_dense(t: LayerReader) -> bool:
    """Whether this layer is one of the first, which are dense."""
    return t.index < t.keys.integer("leading_dense_block_count", 0, high=t.model.sizes.n_layer)


def expert_width(t: LayerReader, default: int | None = None) -> int:
    """Neurons of an expert of this layer. default: where the file does not say; None: the layer's, divided among
    those that are chosen.
    """
    key = "expert_feed_forward_length"
    found = t.keys.integers(key, t.model.sizes.n_layer, 0, high=MAX_SIZE)[t.index]
    return found or default or max(1, t.n_ff // _n_chosen(t, _n_experts(t)))


def shared_width(t: LayerReader, width: int, default: int = 0) -> int:
    """Neurons of the shared experts together, which are as one; 0: there are none. The file says it, or how many there
    are of so many neurons. default: where it says neither.
    """
    count = t.keys.integer("expert_shared_count", 0, high=MOST_EXPERTS)
    return t.keys.integer("expert_shared_feed_forward_length", 0, high=MAX_SIZE) or count * width or default


def routed(
    t: LayerReader,
    *,
    width: int,
    gating: Gating = Gating.SOFTMAX,
    normed: bool,
    shared: int = 0,
    shared_gate: bool = False,
    early: bool = False,
    group_best: int = 2,
    on_input: bool = False,
    gated: bool = True,
    latent: int = 0,
) -> FFN[Tensor, Tensor]:
    """An FFN of experts with so many neurons each. gating, normed: where the file does not say. shared: neurons of the
    shared expert, 0 where there is none; shared_gate: it has a gate. early: the router reads the layer's input.
    group_best, on_input: see `Router`. gated: experts have gates, the shared one, too. latent: numbers of the latents
    that experts work on; 0: they read what the layer does.
    """
    if t.model.gguf.sparse:
        t.model.fail("a PowerInfer model (PWRI) of experts is not supported")
    experts = _n_experts(t)
    router = replace(_router(t, experts, gating, normed), early=early, group_best=group_best, on_input=on_input)
    found = _shared(t, shared, shared_gate, gated) if shared else None
    latents = _latents(t, latent) if latent else None
    neurons = _experts(t, experts, width, latent or t.n_embd, gated)
    return FFN(neurons, Routed(experts, router, found, latents=latents))


def _latents(t: LayerReader, size: int) -> ExpertLatents[Tensor, Tensor]:
    enter, leave = t.linear("ffn_latent_down", size, t.n_embd), t.linear("ffn_latent_up", t.n_embd, size)
    return ExpertLatents(enter, leave)


def _n_experts(t: LayerReader) -> int:
    return t.keys.integer("expert_count", low=1, high=MOST_EXPERTS)


def _n_chosen(t: LayerReader, experts: int) -> int:
    chosen = t.keys.integers("expert_used_count", t.model.sizes.n_layer, low=1, high=MOST_EXPERTS)[t.index]
    if chosen > experts:
        t.keys.fail(f"expert_used_count is {chosen}, but expert_count is {experts}")
    return chosen


def _router(t: LayerReader, experts: int, gating: Gating, normed: bool) -> Router[Tensor, Tensor]:
    chosen = _n_chosen(t, experts)
    n_groups, n_used = _groups(t, experts, chosen)
    return Router(
        t.linear("ffn_gate_inp", experts, t.n_embd),
        chosen,
        _gating(t, gating),
        t.maybe("exp_probs_b.bias", experts),
        n_groups,
        n_used,
        t.keys.flag("expert_weights_norm", default=normed),
        t.keys.factor("expert_weights_scale") or 1.0,
    )


def _groups(t: LayerReader, experts: int, chosen: int) -> tuple[int, int]:
    """How many groups there are, and from how many of them experts are chosen."""
    groups = t.keys.integer("expert_group_count", 0, high=MOST_EXPERTS) or 1
    used = t.keys.integer("expert_group_used_count", 0, high=MOST_EXPERTS) or groups
    if groups == 1:
        return 1, 1
    if experts % groups:
        t.keys.fail(f"expert_group_count {groups} does not divide expert_count {experts}")
    if used > groups:
        t.keys.fail(f"expert_group_used_count is {used}, but expert_group_count is {groups}")
    if chosen > used * (experts // groups):
        t.keys.fail(f"expert_used_count is {chosen}, but {used} of {groups} groups have {used * (experts // groups)}")
    return groups, used


def _gating(t: LayerReader, default: Gating) -> Gating:
    number = t.keys.integer("expert_gating_func", _NO_GATING)
    if number not in (_NO_GATING, *_GATINGS):
        t.keys.fail(f"expert_gating_func {number} is not supported (supported: {', '.join(map(str, _GATINGS))})")
    return _GATINGS.get(number, default)


def _experts(t: LayerReader, experts: int, width: int, n_read: int, gated: bool) -> Neurons[Tensor, Tensor]:
    """n_read: numbers of what an expert reads, and makes."""
    gate: Linear[Tensor, Tensor] | None = None
    if not gated:
        up = _stacked(t, "ffn_up_exps", experts, width, n_read)
    elif "ffn_gate_up_exps.weight" in t:
        gate, up = _divided(t, experts, width, n_read)
    else:
        if "ffn_gate_exps.weight" not in t:
            names = (f"blk.{t.index}.ffn_{one}_exps.weight" for one in ("gate", "gate_up"))
            t.model.fail(f"tensor {' is missing, or '.join(names)}")
        gate, up = (_stacked(t, f"ffn_{name}_exps", experts, width, n_read) for name in ("gate", "up"))
    sizes = t.model.sizes
    turned = sizes.activation.has_exact_zeros and _lies_turned(t, "ffn_down_exps", experts, n_read, width)
    down = (_turned_back if turned else _stacked)(t, "ffn_down_exps", experts, n_read, width)
    return Neurons(experts * width, gate, up, down, False, sizes.activation, curve=sizes.curve)


def _divided(
    t: LayerReader, experts: int, width: int, n_read: int
) -> tuple[Linear[Tensor, Tensor], Linear[Tensor, Tensor]]:
    """Of what holds each expert's gate before its up."""
    both = _stacked(t, "ffn_gate_up_exps", experts, 2 * width, n_read)
    numbers = np.arange(2 * experts * width, dtype=np.int32).reshape(experts, 2, width)

    def part(which: int) -> Linear[Tensor, Tensor]:
        rows = numbers[:, which].reshape(-1)
        return Linear(chosen_rows(both.weight, rows), None if both.bias is None else chosen_rows(both.bias, rows))

    return part(0), part(1)


def _lies_turned(t: LayerReader, name: str, experts: int, rows: int, columns: int) -> bool:
    """Whether a neuron is a row of each expert's matrix, as SmallThinker's own tool writes it: its shape tells."""
    found = t.model.gguf.tensors.get(f"blk.{t.index}.{name}.weight")
    return found is not None and rows != columns and found.shape == (experts, columns, rows)


def _turned_back(t: LayerReader, name: str, experts: int, rows: int, columns: int) -> Linear[Tensor, Tensor]:
    """As `_stacked`, of such matrices: made anew, where it is quantised in a type that loses next to nothing."""
    given = t.tensor(f"{name}.weight", experts, columns, rows)
    kind = down_type(given.type, columns)

    def make() -> npt.NDArray[np.uint8]:
        matrices = given.rows().reshape(experts, -1)
        one = (Tensor(given.name, given.type, (columns, rows), matrix, given.path) for matrix in matrices)
        return np.concatenate([transposed(matrix, given.name, kind).data for matrix in one])

    weight = MadeTensor(given.name, kind, (experts * rows, columns), make, given.path)
    bias = t.maybe(f"{name}.bias", experts, rows)
    return Linear(weight, None if bias is None else replace(bias, shape=(experts * rows,)))


def _stacked(t: LayerReader, name: str, experts: int, rows: int, columns: int) -> Linear[Tensor, Tensor]:
    """All experts' rows, one expert's behind another's."""
    weight = t.tensor(f"{name}.weight", experts, rows, columns)
    bias = t.maybe(f"{name}.bias", experts, rows)
    flat = replace(weight, shape=(experts * rows, columns))
    return Linear(flat, None if bias is None else replace(bias, shape=(experts * rows,)))


def _shared(t: LayerReader, width: int, has_gate: bool, gated: bool) -> SharedExpert[Tensor, Tensor]:
    """has_gate: of its own; gated: its neurons are."""
    gate = t.linear("ffn_gate_shexp", width, t.n_embd) if gated else None
    up = t.linear("ffn_up_shexp", width, t.n_embd)
    down = t.linear("ffn_down_shexp", t.n_embd, width)
    sizes = t.model.sizes
    neurons = Neurons(width, gate, up, down, False, sizes.activation, curve=sizes.curve)
    return SharedExpert(neurons, t.tensor("ffn_gate_inp_shexp.weight", t.n_embd) if has_gate else None)
