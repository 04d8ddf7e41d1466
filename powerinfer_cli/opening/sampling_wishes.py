"""What somebody wishes of a text, as keywords of `generate` and `chat`, and as values."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypedDict

from powerinfer_cli.errors import UsageError
from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.sampling.forms import Form
from powerinfer_cli.sampling.options import RANGES, out_of_range, parse_samplers

__all__ = ["SamplingWishes", "TextSettings", "wanted"]


class SamplingWishes(TypedDict, total=False):
    """Keywords of `generate` and `chat`: `OpenModel.generate` says what they mean."""

    max_tokens: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    tfs_z: float
    top_n_sigma: float
    min_keep: int
    xtc_probability: float
    xtc_threshold: float
    dynatemp_range: float
    dynatemp_exponent: float
    repeat_penalty: float
    repeat_last_n: int
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: Sequence[str]
    adaptive_target: float
    adaptive_decay: float
    mirostat_mode: int
    mirostat_tau: float
    mirostat_eta: float
    logit_bias: Mapping[int, float]
    ignore_eos: bool
    samplers: str | Sequence[str]
    grammar: str | None
    json_schema: Mapping[str, Any] | None
    response_format: Mapping[str, Any] | None


@dataclass(frozen=True)
class TextSettings:
    """max_tokens: None for no limit. stop: where the text ends, before any of these. form: what it may be."""

    sampler: SamplerOptions
    max_tokens: int | None
    stop: tuple[str, ...]
    form: Form


# Keywords that are named otherwise than the sampler's fields.
_FIELDS = {
    "temperature": "temp",
    "typical_p": "typ_p",
    "repeat_penalty": "penalty_repeat",
    "repeat_last_n": "penalty_last_n",
    "presence_penalty": "penalty_present",
    "frequency_penalty": "penalty_freq",
    "mirostat_mode": "mirostat",
}
_OTHERS = ("max_tokens", "stop", "grammar", "json_schema", "response_format")


def wanted(caller: str, wishes: Mapping[str, Any]) -> TextSettings:
    """As a text is made by. caller: whose keywords they are.

    Raises:
        UsageError: a value that makes no sense; the line names the keyword.
        TypeError: there is no such keyword.
    """
    for name in wishes:
        if name not in SamplingWishes.__annotations__:
            raise TypeError(f"{caller}() got an unexpected keyword argument {name!r}")
    values = {_FIELDS.get(name, name): _checked(name, wishes[name]) for name in wishes if name not in _OTHERS}
    return TextSettings(
        SamplerOptions(**values),
        _limit(wishes.get("max_tokens")),
        _texts("stop", wishes.get("stop") or ()),
        _form(wishes),
    )


def _checked(name: str, value: Any) -> Any:
    """As the sampler takes it. Raises UsageError."""
    field = _FIELDS.get(name, name)
    if name == "seed" and value is None:
        return -1
    if name == "ignore_eos":
        return bool(value)
    if name == "dry_sequence_breakers":
        return _texts(name, value)
    if name == "samplers":
        return parse_samplers(value if isinstance(value, str) else ";".join(_texts(name, value)))
    if name == "logit_bias":
        return _biases(value)
    number: float
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
    elif isinstance(value, Real) and not isinstance(value, bool) and field not in _WHOLE:
        number = float(value)
    else:
        raise UsageError(f"{name} must be a {'whole ' if field in _WHOLE else ''}number, got {value!r:.60}")
    wrong = out_of_range(field, number)
    if wrong is not None:
        raise UsageError(f"{name} {wrong}")
    return number


_WHOLE = frozenset(name for name in RANGES if isinstance(getattr(SamplerOptions(), name), int))


def _biases(value: Any) -> dict[int, float]:
    """OpenAI's clients have token ids as text."""
    try:
        return {int(token): float(bias) for token, bias in dict(value or {}).items()}
    except (TypeError, ValueError):
        raise UsageError(f"logit_bias must be biases by token id, as {{15043: 1.5}}, got {value!r:.60}") from None


def _limit(value: Any) -> int | None:
    if value is None or value == -1:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise UsageError(f"max_tokens must be a number from 0 on, or None for no limit, got {value!r:.60}")
    return int(value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, Sequence) or not all(isinstance(one, str) for one in found):
        raise UsageError(f"{name} must be a text or a list of texts, got {value!r:.60}")
    return tuple(found)


def _form(wishes: Mapping[str, Any]) -> Form:
    given = [name for name in ("grammar", "json_schema", "response_format") if wishes.get(name) is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other")
    grammar, schema = wishes.get("grammar"), wishes.get("json_schema")
    if grammar is not None and not isinstance(grammar, str):
        raise UsageError(f"grammar must be a text in GBNF, got {grammar!r:.60}")
    if given == ["response_format"]:
        schema = _schema_of(wishes["response_format"])
    if schema is not None:
        _check_schema(given[0], schema)
    return Form(grammar, schema)


def _schema_of(asked: Any) -> Any:
    """OpenAI's response_format, and llama.cpp's, where an object may have a schema. None: any text."""
    kind = asked.get("type") if isinstance(asked, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return asked.get("schema") or {}
    if kind == "json_schema" and isinstance(asked.get("json_schema"), Mapping):
        return asked["json_schema"].get("schema", {})
    raise UsageError(
        f'response_format must be {{"type": "text"}}, "json_object" or "json_schema" with its schema, got {asked!r:.60}'
    )


def _check_schema(name: str, schema: Any) -> None:
    if not isinstance(schema, Mapping):
        raise UsageError(f"{name}: a schema is a JSON object, got {schema!r:.60}")
    try:
        json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{name}: not JSON: {error}") from None
