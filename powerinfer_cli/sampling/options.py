"""What a user can say about sampling: llama.cpp's parameters with its names and defaults, and its flags' syntax."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from powerinfer_cli.errors import UsageError

# Name -> letter in --sampling-seq.
SAMPLER_LETTERS: Mapping[str, str] = MappingProxyType(
    {
        "penalties": "e",
        "dry": "d",
        "top_n_sigma": "s",
        "top_k": "k",
        "tfs_z": "f",
        "typ_p": "y",
        "top_p": "p",
        "min_p": "m",
        "xtc": "x",
        "temperature": "t",
        "adaptive_p": "a",
    }
)

# llama.cpp's order, with tail-free (off unless asked for) where llama.cpp had it.
DEFAULT_SAMPLERS = tuple(name for name in SAMPLER_LETTERS if name != "adaptive_p")

_ALIASES = {
    **{name.replace("_", "-"): name for name in SAMPLER_LETTERS},
    **{name.replace("_", ""): name for name in SAMPLER_LETTERS},
    "nucleus": "top_p",
    "temp": "temperature",
    "typ": "typ_p",
    "tfs": "tfs_z",
}

_FLOAT32_MAX = 3.4028234663852886e38
_INT32_MAX = 2**31 - 1

_ANY = (-math.inf, math.inf)

# Field -> (flag, smallest, largest): all its flags. Numbers with a fraction are finite besides. Where llama.cpp takes a
# value beyond as the nearest inside, as --temp -1 and --top-p 2, a mistake is told at once; its server's clients are
# not (serving.schemas).
RANGES: dict[str, tuple[str, float, float]] = {
    "seed": ("--seed", -1, 2**32 - 1),
    "min_keep": ("--min-keep", 0, _INT32_MAX),
    "top_k": ("--top-k", -_INT32_MAX - 1, _INT32_MAX),
    "top_p": ("--top-p", 0.0, 1.0),
    "min_p": ("--min-p", 0.0, 1.0),
    "typ_p": ("--typical", 0.0, 1.0),
    "tfs_z": ("--tfs", 0.0, 1.0),
    "top_n_sigma": ("--top-nsigma", *_ANY),
    "xtc_probability": ("--xtc-probability", 0.0, 1.0),
    "xtc_threshold": ("--xtc-threshold", 0.0, 1.0),
    "temp": ("--temp", 0.0, math.inf),
    "dynatemp_range": ("--dynatemp-range", 0.0, math.inf),
    "dynatemp_exponent": ("--dynatemp-exp", 0.0, math.inf),
    "penalty_last_n": ("--repeat-last-n", -1, _INT32_MAX),
    "penalty_repeat": ("--repeat-penalty", *_ANY),
    "penalty_freq": ("--frequency-penalty", *_ANY),
    "penalty_present": ("--presence-penalty", *_ANY),
    "dry_multiplier": ("--dry-multiplier", *_ANY),
    "dry_base": ("--dry-base", 1.0, math.inf),
    "dry_allowed_length": ("--dry-allowed-length", 0, _INT32_MAX),
    "dry_penalty_last_n": ("--dry-penalty-last-n", -1, _INT32_MAX),
    "adaptive_target": ("--adaptive-target", -math.inf, 1.0),
    "adaptive_decay": ("--adaptive-decay", 0.0, 0.99),
    "mirostat": ("--mirostat", 0, 2),
    "mirostat_tau": ("--mirostat-ent", 0.0, math.inf),
    "mirostat_eta": ("--mirostat-lr", 0.0, math.inf),
}


@dataclass(frozen=True)
class SamplerOptions:
    """llama.cpp's sampling parameters under its own names. Raises UsageError for values without a meaning."""

    seed: int = -1  # -1: random
    min_keep: int = 0
    top_k: int = 40  # 0 or less: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.05  # 0: off
    xtc_probability: float = 0.0  # 0: off
    xtc_threshold: float = 0.1  # over 0.5: off
    tfs_z: float = 1.0  # 1: off
    typ_p: float = 1.0  # 1: off
    temp: float = 0.8  # 0: greedy
    dynatemp_range: float = 0.0  # 0: off
    dynatemp_exponent: float = 1.0
    penalty_last_n: int = 64  # 0: off; -1: the whole context
    penalty_repeat: float = 1.0  # 1: off
    penalty_freq: float = 0.0  # 0: off
    penalty_present: float = 0.0  # 0: off
    dry_multiplier: float = 0.0  # 0: off
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64  # 0: off; -1: the whole context
    adaptive_target: float = -1.0  # negative: off
    adaptive_decay: float = 0.9
    mirostat: int = 0  # 0: off; 1 and 2 replace the chain
    top_n_sigma: float = -1.0  # 0 or less: off
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    ignore_eos: bool = False
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    samplers: tuple[str, ...] = DEFAULT_SAMPLERS
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (flag, _, _) in RANGES.items():
            wrong = out_of_range(name, getattr(self, name))
            if wrong is not None:
                raise UsageError(f"{flag} {wrong}")
        for name in self.samplers:
            if name not in SAMPLER_LETTERS:
                raise UsageError(_unknown_sampler("--samplers", name))
        for token, value in self.logit_bias.items():
            if not (value == -math.inf or abs(value) <= _FLOAT32_MAX):
                raise UsageError(f"--logit-bias: the bias of token {token} must be a number or -inf, got {value}")


def out_of_range(name: str, value: float) -> str | None:
    """What a field's value must be, where it is not; None where it is."""
    _, smallest, largest = RANGES[name]
    if not abs(value) <= _FLOAT32_MAX:
        return f"must be a finite number, got {value}"
    if not smallest <= value <= largest:
        return f"must be {_range_text(smallest, largest)}, got {value}"
    if name == "penalty_repeat" and value < 1.0 / _FLOAT32_MAX:  # its inverse has to be a finite float32 as well
        return f"must be greater than 0, got {value}"
    return None


def _range_text(smallest: float, largest: float) -> str:
    if math.isinf(largest) or largest == _INT32_MAX:
        return f"{smallest:.10g} or more"
    if math.isinf(smallest):
        return f"{largest:.10g} at most"
    return f"from {smallest:.10g} to {largest:.10g}"


def _unknown_sampler(flag: str, name: str) -> str:
    known = ", ".join(f"{known} ({letter})" for known, letter in SAMPLER_LETTERS.items())
    return f"{flag}: unknown sampler {name!r}; known are {known}"


def parse_samplers(text: str) -> tuple[str, ...]:
    """`--samplers "top_k;top_p"`: names separated by semicolons, in any of llama.cpp's spellings; "" is none."""
    names = []
    for part in text.split(";") if text else ():
        name = part.strip().lower()
        name = _ALIASES.get(name, name)
        if name not in SAMPLER_LETTERS:
            raise UsageError(_unknown_sampler("--samplers", part))
        names.append(name)
    return tuple(names)


def parse_sampler_sequence(text: str) -> tuple[str, ...]:
    """`--sampling-seq kpt`: one letter for each sampler."""
    names = {letter: name for name, letter in SAMPLER_LETTERS.items()}
    for letter in text:
        if letter not in names:
            raise UsageError(_unknown_sampler("--sampling-seq", letter))
    return tuple(names[letter] for letter in text)


def parse_logit_bias(texts: Sequence[str]) -> dict[int, float]:
    """`--logit-bias 15043+1` or `15043-inf`, several times: token id -> bias. Biases of one token add up."""
    biases: dict[int, float] = {}
    for text in texts:
        match = re.fullmatch(r"\s*(\d{1,10})\s*([+-])\s*(inf|\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})\s*", text)
        if match is None:
            raise UsageError(f"--logit-bias must look like TOKEN_ID+BIAS or TOKEN_ID-BIAS, got {text!r}")
        token, value = int(match[1]), float(match[2] + match[3])
        biases[token] = biases.get(token, 0.0) + value
    return biases


def parse_dry_breakers(texts: Sequence[str]) -> tuple[str, ...]:
    """`--dry-sequence-breaker`, several times: they replace the defaults, and "none" drops those before it."""
    breakers: list[str] = []
    for text in texts:
        if text == "none":
            breakers.clear()
        else:
            breakers.append(text)
    return tuple(breakers)
