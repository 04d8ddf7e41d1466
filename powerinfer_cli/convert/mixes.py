"""Which type each tensor of a quantised file gets: llama.cpp's mixes (`llama-quant.cpp`), and rules for predictors.

A mix is named by what most tensors get, and S, M, L or XS by how many of the tensors that matter more get more.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType

from powerinfer_cli.gguf_io import BLOCK, GGMLType

__all__ = [
    "FLOATS",
    "MIXES",
    "NEEDS_IMPORTANCE",
    "RULES",
    "VALUES",
    "Mix",
    "Part",
    "Shape",
    "fitting_type",
    "is_kept",
    "mixed_type",
    "part_of",
]

T = GGMLType
FLOATS = (T.F32, T.F16, T.BF16)
NEEDS_IMPORTANCE = (T.IQ1_S, T.IQ1_M, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS)  # garbage without


@dataclass(frozen=True)
class Mix:
    """number: what `general.file_type` says. base: the type of tensors that no rule names."""

    name: str
    number: int
    base: GGMLType


def _mixes() -> dict[str, Mix]:
    table = (
        "F32 0 F32, F16 1 F16, Q4_0 2 Q4_0, Q4_1 3 Q4_1, Q8_0 7 Q8_0, Q5_0 8 Q5_0, Q5_1 9 Q5_1, Q2_K 10 Q2_K, "
        "Q3_K_S 11 Q3_K, Q3_K_M 12 Q3_K, Q3_K_L 13 Q3_K, Q4_K_S 14 Q4_K, Q4_K_M 15 Q4_K, Q5_K_S 16 Q5_K, "
        "Q5_K_M 17 Q5_K, Q6_K 18 Q6_K, IQ2_XXS 19 IQ2_XXS, IQ2_XS 20 IQ2_XS, Q2_K_S 21 Q2_K, IQ3_XS 22 IQ3_S, "
        "IQ3_XXS 23 IQ3_XXS, IQ1_S 24 IQ1_S, IQ4_NL 25 IQ4_NL, IQ3_S 26 IQ3_S, IQ3_M 27 IQ3_S, IQ2_S 28 IQ2_XS, "
        "IQ2_M 29 IQ2_S, IQ4_XS 30 IQ4_XS, IQ1_M 31 IQ1_M, BF16 32 BF16, TQ1_0 36 TQ1_0, TQ2_0 37 TQ2_0, "
        "MXFP4_MOE 38 MXFP4"
    )
    rows = (row.split() for row in table.split(", "))
    return {name: Mix(name, int(number), GGMLType[base]) for name, number, base in rows}


MIXES: Mapping[str, Mix] = MappingProxyType(_mixes())
"""By name, as `llama-quantize` names them; Q3_K, Q4_K and Q5_K mean the M of each there."""


class Part(Enum):
    """What a matrix is for."""

    EMBEDDING = auto()
    OUTPUT = auto()
    QUERY = auto()
    KEY = auto()
    VALUE = auto()
    FUSED = auto()  # queries, keys and values
    LATENT = auto()  # keys and values from a latent
    ATTENTION_OUTPUT = auto()
    GATE = auto()
    UP = auto()
    DOWN = auto()
    PREDICTOR = auto()
    OTHER = auto()


_PARTS = (
    (re.compile(r"output\.weight"), Part.OUTPUT),
    (re.compile(r"(per_layer_)?token_embd\.weight"), Part.EMBEDDING),
    (re.compile(r".*attn_qkv\.weight"), Part.FUSED),
    (re.compile(r".*attn_kv_b\.weight"), Part.LATENT),
    (re.compile(r".*attn_v\.weight"), Part.VALUE),
    (re.compile(r".*attn_k\.weight"), Part.KEY),
    (re.compile(r".*attn_q\.weight"), Part.QUERY),
    (re.compile(r".*attn_output\.weight"), Part.ATTENTION_OUTPUT),
    (re.compile(r"blk\.\d+\.fc[12]\.weight"), Part.PREDICTOR),
    (re.compile(r".*ffn_up.*"), Part.UP),
    (re.compile(r".*ffn_gate.*"), Part.GATE),
    (re.compile(r".*ffn_down.*"), Part.DOWN),
)
_KEPT = re.compile(
    r".*(_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|altup.*|laurel.*|per_layer_model_proj.*|"
    r"ssm_conv1d.*|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight|time_mix_.*|attn_rel_b\.weight|"
    r"token_types\.weight|\.position_embd.*|\.rel_pos.*|\.patch_embd.*)"
)
_POSITIONS = "position_embd.weight"


def part_of(name: str) -> Part:
    """By a tensor's name."""
    return next((part for pattern, part in _PARTS if pattern.fullmatch(name)), Part.OTHER)


def is_kept(name: str, n_dims: int) -> bool:
    """Whether a tensor stays as it is: vectors, norms, routers, positions, small parts that matter."""
    return n_dims < 2 or not name.endswith("weight") or name == _POSITIONS or _KEPT.fullmatch(name) is not None


@dataclass(frozen=True)
class Shape:
    """What the rules ask of a model. tied: there is no output matrix, the embedding is used instead."""

    architecture: str
    n_layer: int
    n_gqa: int
    n_experts: int
    tied: bool
    important: bool  # an importance matrix is at hand

    @property
    def shared_values(self) -> bool:
        """As in models of 70 billion weights: attn_v is an eighth of attn_q, so that more bits cost little."""
        return self.n_layer == 80 and self.n_gqa > 1 and self.architecture in ("llama", "qwen2", "deci", "olmo")


VALUES = (Part.VALUE, Part.FUSED, Part.LATENT)


def mixed_type(mix: Mix, name: str, dims: Sequence[int], shape: Shape, values_before: int, values: int) -> GGMLType:
    """Of a matrix (NumPy order) that is not kept; it may not fit its rows yet (see `fitting_type`).

    values_before: of how many layers the values' matrix (or that of all three, or a latent's) came before; values: in
    all.
    """
    match = re.match(r"blk\.(\d+)\.", name)
    part = part_of(name)
    if shape.tied and part is Part.EMBEDDING:
        part = Part.OUTPUT
    if mix.name == "MXFP4_MOE" and part is not Part.OUTPUT:
        return T.MXFP4 if len(dims) > 2 and dims[0] > 1 else T.Q8_0
    case = _Case(shape, int(match[1]) if match else 0, dims[-1] % BLOCK[mix.base][0] == 0, values_before, values)
    found = next((rule.kind for rule in RULES.get(part, ()) if mix.name in rule.mixes and rule.when(case)), mix.base)
    if part in VALUES and shape.shared_values and found in (T.Q3_K, T.Q4_K) and mix.name not in SMALLEST.split():
        return T.Q5_K
    return found


@dataclass(frozen=True)
class _Case:
    """What rules ask. whole: rows are whole blocks of the mix's base type."""

    shape: Shape
    layer: int
    whole: bool
    values_before: int
    values: int

    @property
    def early(self) -> bool:
        """In the first eighth of the layers."""
        return self.layer < self.shape.n_layer // 8

    @property
    def earliest(self) -> bool:
        return self.layer < self.shape.n_layer // 16

    @property
    def middle(self) -> bool:
        return not self.early and self.layer < 7 * self.shape.n_layer // 8

    @property
    def matters(self) -> bool:
        """In the first eighth, the last, or every third between."""
        return _matters(self.layer, self.shape.n_layer)

    @property
    def value_matters(self) -> bool:
        return _matters(self.values_before, self.values)

    @property
    def grouped(self) -> bool:
        return self.shape.n_gqa >= 4

    @property
    def eight(self) -> bool:
        """As Mixtral has."""
        return self.shape.n_experts == 8

    @property
    def falcon(self) -> bool:
        return self.shape.architecture == "falcon"

    @property
    def important(self) -> bool:
        return self.shape.important


def _matters(number: int, count: int) -> bool:
    return number < count // 8 or number >= 7 * count // 8 or (number - count // 8) % 3 == 2


@dataclass(frozen=True)
class Rule:
    """Of these mixes, a part's tensors of which `when` is true get `kind`; the first rule that fits counts."""

    mixes: tuple[str, ...]
    kind: GGMLType
    when: Callable[[_Case], bool]


def _rule(mixes: str, kind: GGMLType, when: Callable[[_Case], bool] = lambda case: True) -> Rule:
    return Rule(tuple(MIXES) if mixes == "any" else tuple(mixes.split()), kind, when)


SMALLEST = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M"
_SMALL = "Q2_K IQ3_XS IQ3_XXS Q3_K_S Q3_K_M IQ4_NL Q4_K_S Q4_K_M IQ3_S IQ3_M IQ4_XS"
_VALUES = (
    _rule(SMALLEST, T.Q4_K, lambda case: case.grouped or case.shape.n_experts >= 4),
    _rule("IQ2_S IQ2_M", T.IQ3_S),
    _rule(SMALLEST, T.Q2_K),
    _rule("any", T.Q8_0, lambda case: case.eight),
    _rule("Q2_K Q2_K_S IQ3_XXS IQ3_XS IQ3_S", T.Q4_K, lambda case: case.grouped),
    _rule("Q2_K", T.Q3_K),
    _rule("IQ3_XXS", T.IQ3_S, lambda case: not case.important),
    _rule("IQ3_M", T.Q4_K),
    _rule("Q3_K_M", T.Q5_K, lambda case: case.values_before < 2),
    _rule("Q3_K_M", T.Q4_K),
    _rule("Q3_K_L", T.Q5_K),
    _rule("IQ4_NL IQ4_XS", T.Q5_K, lambda case: case.grouped),
    _rule("Q4_K_M Q5_K_M", T.Q6_K, lambda case: case.value_matters),
    _rule("Q4_K_S", T.Q5_K, lambda case: case.values_before < 4),
)
_QUERIES = (_rule("IQ3_XS", T.IQ3_XXS), _rule("IQ3_XXS", T.IQ2_S))
_GATES = (_rule("IQ3_XS", T.IQ3_XXS, lambda case: case.middle),)
_DOWNS = (
    _rule("IQ2_S IQ2_M", T.IQ3_S, lambda case: case.early),
    _rule(SMALLEST, T.Q2_K, lambda case: case.early),
    _rule("Q2_K", T.Q3_K),
    _rule("Q2_K_S", T.Q4_K, lambda case: case.early),
    _rule("IQ3_XXS", T.Q4_K, lambda case: case.early and not case.important),
    _rule("IQ3_XXS", T.Q3_K, lambda case: not case.important),
    _rule("Q3_K_M", T.Q5_K, lambda case: case.earliest),
    _rule("Q3_K_M", T.Q4_K, lambda case: case.matters or not case.falcon),
    _rule("IQ3_M", T.Q4_K, lambda case: case.early or (case.eight and case.matters)),
    _rule("Q3_K_L", T.Q4_K, lambda case: case.falcon),
    _rule("Q3_K_L", T.Q5_K),
    _rule("Q4_K_M", T.Q6_K, lambda case: case.earliest if case.falcon else case.matters),
    _rule("Q4_K_M", T.Q5_K, lambda case: case.falcon and case.matters),
    _rule("Q5_K_M", T.Q6_K, lambda case: case.matters),
    _rule("IQ4_NL IQ4_XS", T.Q5_K, lambda case: case.early and not case.important),
    _rule("Q4_K_S", T.Q5_K, lambda case: case.early and not case.falcon),
    _rule("Q4_0", T.Q4_1, lambda case: case.early and case.important),
    _rule("Q5_0", T.Q5_1, lambda case: case.early and case.important),
)
_ATTENTION_OUTPUTS = (
    _rule("Q3_K_L", T.Q4_K, lambda case: case.falcon),
    _rule(f"{SMALLEST} {_SMALL}", T.Q5_K, lambda case: case.eight and not case.falcon),
    _rule("IQ1_S IQ1_M", T.IQ2_XXS),
    _rule("IQ2_S IQ2_M", T.IQ3_S),
    _rule("Q2_K", T.Q3_K, lambda case: not case.falcon),
    _rule("IQ3_XXS", T.IQ3_S, lambda case: not case.falcon),
    _rule("Q3_K_M IQ3_M", T.Q4_K, lambda case: not (case.falcon or case.eight)),
    _rule("Q3_K_L", T.Q5_K, lambda case: not case.eight),
)
_OUTPUTS = (
    _rule("any", T.Q8_0, lambda case: case.falcon or not case.whole),
    _rule("MXFP4_MOE Q8_0", T.Q8_0),
    _rule(f"{SMALLEST} IQ3_XXS", T.Q5_K),
    _rule("any", T.Q6_K),
)
_EMBEDDINGS = (
    _rule("IQ2_XXS IQ2_XS IQ1_S IQ1_M", T.Q2_K),
    _rule("IQ2_S IQ2_M IQ3_XXS", T.IQ3_S),
    _rule("TQ1_0 TQ2_0", T.Q4_K),
)
# Of the bundled model's neurons that fire, predictors in Q8_0 find 97.0 %, in Q5_1 94.1, Q5_0 92.7, Q4_0 85.1, and let
# more through that do not: `scripts/bench/predictor_types.py`.
_PREDICTORS = (_rule("any", T.Q8_0),)
RULES: Mapping[Part, tuple[Rule, ...]] = MappingProxyType(
    {
        **dict.fromkeys(VALUES, _VALUES),
        Part.KEY: (
            _rule(SMALLEST, T.Q4_K, lambda case: case.eight),
            _rule("any", T.Q8_0, lambda case: case.eight),
            *_QUERIES,
        ),
        Part.QUERY: _QUERIES,
        Part.GATE: _GATES,
        Part.UP: _GATES,
        Part.DOWN: _DOWNS,
        Part.ATTENTION_OUTPUT: _ATTENTION_OUTPUTS,
        Part.OUTPUT: _OUTPUTS,
        Part.EMBEDDING: _EMBEDDINGS,
        Part.PREDICTOR: _PREDICTORS,
    }
)
_SHORTER = {  # in place of types whose blocks do not divide a row
    **dict.fromkeys((*NEEDS_IMPORTANCE, T.IQ3_S, T.IQ4_XS), T.IQ4_NL),
    **dict.fromkeys((T.Q2_K, T.Q3_K, T.TQ1_0, T.TQ2_0), T.Q4_0),
    T.Q4_K: T.Q5_0,
    T.Q5_K: T.Q5_1,
    T.Q6_K: T.Q8_0,
}


def fitting_type(kind: GGMLType, n_cols: int) -> GGMLType:
    """It, or the type with shorter blocks that stands for it where rows are no whole blocks, or F16."""
    if n_cols % BLOCK[kind][0] and kind in _SHORTER:
        kind = _SHORTER[kind]
    return T.F16 if n_cols % BLOCK[kind][0] else kind
