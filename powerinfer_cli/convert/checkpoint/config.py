"""config.json, as older and newer versions of transformers write it, read with care."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from powerinfer_cli.errors import PowerInferError

__all__ = ["Config"]

_BASE = ("global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base")
_WINDOW_BASE = ("local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta", "rope_local_base_freq")
_PART = ("partial_rotary_factor", "rope_pct", "rope_percent", "rotary_pct")
_TEXT = ("text_config", "llm_config", "language_config")


class Config:
    """A checkpoint's numbers by name. Of models that see or hear as well, those of the text model."""

    def __init__(self, path: Path, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        """defaults: of the numbers that are not there."""
        self.path, self._whole = path, values
        text: dict[str, Any] = next((values[name] for name in _TEXT if isinstance(values.get(name), dict)), {})
        given = {name: value for name, value in {**values, **text}.items() if value is not None}
        self._values = {**(defaults or {}), **given}

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Config":
        return Config(self.path, self._whole, defaults)

    @property
    def classes(self) -> list[str]:
        """The model's class as transformers calls it, first as the text model's own configuration has it."""
        inner: dict[str, Any] = next(
            (self._whole[name] for name in _TEXT if isinstance(self._whole.get(name), dict)), {}
        )
        found = [values.get("architectures") for values in (inner, self._whole)]
        return [name for names in found if isinstance(names, list) for name in names if isinstance(name, str)]

    @property
    def runs_code(self) -> bool:
        """Whether transformers would need Python code from the checkpoint."""
        return isinstance(self._whole.get("auto_map"), dict)

    def fail(self, problem: str) -> NoReturn:
        raise PowerInferError(f"{self.path}: {problem}")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """As it is, of whatever type."""
        return self._values.get(name, default)

    def first(self, *names: str) -> Any:
        """Of the first of these names that is there, else None."""
        return next((self._values[name] for name in names if name in self._values), None)

    def integer(self, *names: str, default: int | None = None) -> int:
        """A whole number from 0 to 2^31, of the first of these names. Raises PowerInferError."""
        value = self.first(*names)
        if value is None:
            value = default
        if value is None:
            self.fail(f"{names[0]} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
            self.fail(f"{names[0]} is {str(value)[:40]!r}, not a whole number of 0 or more")
        return value

    def number(self, *names: str, default: float | None = None) -> float:
        """A finite number, of the first of these names. Raises PowerInferError."""
        value = self.first(*names)
        if value is None:
            value = default
        if value is None:
            self.fail(f"{names[0]} is missing")
        if not _is_number(value):
            self.fail(f"{names[0]} is {str(value)[:40]!r}, not a number")
        found: float = value
        return found

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            self.fail(f"{name} is {str(value)[:40]!r}, neither true nor false")
        return value

    def items(self, name: str, kind: type, count: int | None = None) -> list[Any]:
        """A list of one kind of things. Raises PowerInferError, also where it has another length."""
        found = self._values.get(name)
        fine = isinstance(found, list) and all(
            (isinstance(x, kind) and not isinstance(x, bool)) or kind is bool for x in found
        )
        if not isinstance(found, list) or not fine or count not in (None, len(found)):
            self.fail(f"{name} is no list of {'such things' if count is None else count}")
        return found

    def numbers(self, name: str, count: int) -> list[float]:
        """So many finite numbers. Raises PowerInferError."""
        found = self._values.get(name)
        if not isinstance(found, list) or len(found) != count:
            self.fail(f"{name} is no list of {count} numbers")
        if not all(map(_is_number, found)):
            self.fail(f"{name} holds what is no number")
        return found

    def section(self, name: str) -> dict[str, Any]:
        """An object within; empty where it is missing. Raises PowerInferError."""
        found = self._values.get(name, {})
        if not isinstance(found, dict):
            self.fail(f"{name} is no object")
        return found

    @property
    def n_layer(self) -> int:
        kinds = self.first("layers_block_type", "layer_types")
        default = len(kinds) if isinstance(kinds, list) else None
        found = self.integer("num_hidden_layers", "n_layers", "n_layer", "num_layers", default=default)
        if not 1 <= found <= 1 << 14:
            self.fail(f"num_hidden_layers is {found}")
        return found

    @property
    def n_embd(self) -> int:
        return self.integer("hidden_size", "n_embd", "d_model", "dim")

    @property
    def n_head(self) -> int:
        return self.integer("num_attention_heads", "n_head", "n_heads")

    @property
    def n_head_kv(self) -> int:
        return self.integer("num_key_value_heads", "n_kv_heads", default=self.n_head)

    @property
    def head_dim(self) -> int:
        """Where it is not said, heads share the width."""
        return self.integer("head_dim", default=self.n_embd // max(1, self.n_head))

    @property
    def rope(self) -> dict[str, Any]:
        """Of the layers that see everything: rope_type, rope_theta, factor and so on."""
        found: dict[str, Any] = self._ropes.get("full_attention", self._ropes)
        return found

    @property
    def window_rope(self) -> dict[str, Any]:
        """Of layers with a window, where they have their own."""
        found: dict[str, Any] = self._ropes.get("sliding_attention", {})
        return found

    @property
    def _ropes(self) -> dict[str, Any]:
        """rope_parameters; of older checkpoints rope_scaling, and numbers beside it."""
        found = dict(self.section("rope_parameters" if "rope_parameters" in self._values else "rope_scaling"))
        if any(not isinstance(found.get(kind, {}), dict) for kind in ("full_attention", "sliding_attention")):
            self.fail("rope_parameters: full_attention and sliding_attention are no objects")
        if "full_attention" in found or "sliding_attention" in found:
            return found
        beside = {
            "rope_theta": self.first(*_BASE),
            "rope_type": found.get("type"),
            "partial_rotary_factor": self.first(*_PART),
            "original_max_position_embeddings": self.first("original_max_position_embeddings"),
        }
        for name, value in beside.items():
            if value is not None:
                found.setdefault(name, value)
        window_base = self.first(*_WINDOW_BASE)
        if window_base is not None:
            found["sliding_attention"] = {"rope_theta": window_base}
        return found

    @property
    def part_turned(self) -> float:
        """How much of a head is turned."""
        part = self.rope.get("partial_rotary_factor", 1.0)
        if isinstance(part, bool) or not isinstance(part, int | float) or not 0 <= part <= 1:
            self.fail(f"partial_rotary_factor is {str(part)[:40]!r}")
        return part


def _is_number(value: object) -> bool:
    """Finite, also as a float: JSON's whole numbers may be larger than any."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
