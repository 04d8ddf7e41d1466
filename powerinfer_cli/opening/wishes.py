"""What somebody wishes of how a model runs and where it lies, as keywords of `open_model`, and as values."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypedDict

from powerinfer_cli.drafting import DraftOptions, draft_options
from powerinfer_cli.errors import UsageError
from powerinfer_cli.opening.planning.overrides import parse_overrides
from powerinfer_cli.placement import budget_bytes
from powerinfer_cli.runtime import EngineOptions, LoadEvents

__all__ = ["DraftWishes", "ModelWishes", "PlacementWishes", "draft_wishes", "logged", "parse_shares", "with_wishes"]


class DraftWishes(TypedDict, total=False):
    """Keywords of `open_model` about drafts."""

    spec_type: str | None
    model_draft: str | PathLike[str] | None
    draft_max: int | None
    draft_min: int | None
    draft_p_min: float | None
    n_gpu_layers_draft: int | None
    n_ctx_draft: int | None
    spec_ngram_size_n: int | None
    spec_ngram_size_m: int | None
    spec_ngram_min_hits: int | None


class ModelWishes(DraftWishes, total=False):
    """Keywords of `open_model`, which says what they mean."""

    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_threads: int | None
    n_threads_batch: int | None
    type_k: str
    type_v: str
    repack: bool
    use_mlock: bool
    swa_full: bool
    all_active: bool
    reference: bool
    vram_budget: float | Sequence[float] | None
    n_gpu_layers: int | None
    main_gpu: int | None
    tensor_split: Sequence[float] | None
    device: Literal["cuda", "mps", "cpu"] | None
    reset_gpu_index: bool
    disable_gpu_index: bool
    cpu_moe: bool
    n_cpu_moe: int | None
    override_tensor: str | Sequence[str]
    adaptive: Literal["on", "off", "auto"]
    offload_kqv: bool


@dataclass(frozen=True)
class PlacementWishes:
    """As the flags of these names say; None: whatever is there.

    vram_budget: bytes, a number for each GPU. gpu_layers: whole layers, the last so many at most; -1: all that fit.
    tensor_split: how layers are divided among GPUs. reset_gpu_index: replace the plan that is kept;
    disable_gpu_index: neither read nor write one. cpu_moe, n_cpu_moe: experts of all, or of the first so many layers
    stay in main memory; override_tensor: see `overrides.parse_overrides`. adaptive: whether what is hot changes while
    the model runs; auto: where the route trace says that it pays.
    kv_offload: the KV cache of layers on a GPU
    goes there, too.
    """

    vram_budget: tuple[int, ...] | None = None
    gpu_layers: int | None = None
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] | None = None
    device: Literal["cuda", "mps", "cpu"] | None = None
    reset_gpu_index: bool = False
    disable_gpu_index: bool = False
    cpu_moe: bool = False
    n_cpu_moe: int | None = None
    override_tensor: tuple[str, ...] = ()
    adaptive: Literal["on", "off", "auto"] = "off"
    kv_offload: bool = True

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the flags that ask for a GPU, or say something about one."""
        flags = {
            f"--device {self.device}": self.device in ("cuda", "mps"),
            "--vram-budget": self.vram_budget is not None,
            "-ngl": self.gpu_layers is not None,
            "-mg": self.main_gpu is not None,
            "-ts": self.tensor_split is not None,
            "--reset-gpu-index": self.reset_gpu_index,
            "--disable-gpu-index": self.disable_gpu_index,
            "--cpu-moe": self.cpu_moe,
            "--n-cpu-moe": self.n_cpu_moe is not None,
            "-ot": bool(self.override_tensor),
            "--adaptive": self.adaptive != "off",
            "-nkvo": not self.kv_offload,
        }
        return tuple(name for name, given in flags.items() if given)

    @property
    def max_layers(self) -> int | None:
        """As `placement.reserve` takes it."""
        return None if self.gpu_layers in (None, -1) else self.gpu_layers


_FIELDS = {
    "use_mlock": "mlock",
    "n_gpu_layers": "gpu_layers",
    "offload_kqv": "kv_offload",
}  # where a keyword is named otherwise
_PLACING = frozenset(PlacementWishes.__dataclass_fields__)


_DRAFTING = {
    "draft_max": "most",
    "draft_min": "least",
    "draft_p_min": "p_min",
    "n_gpu_layers_draft": "n_gpu_layers",
    "n_ctx_draft": "n_ctx",
    "spec_ngram_size_n": "size_n",
    "spec_ngram_size_m": "size_m",
    "spec_ngram_min_hits": "min_hits",
}


def draft_wishes(wishes: Mapping[str, Any]) -> tuple[DraftOptions | None, dict[str, Any]]:
    """What keywords of `open_model` say of drafts, None for nothing; and the others. Raises UsageError."""
    rest = {name: value for name, value in wishes.items() if name not in DraftWishes.__annotations__}
    if len(rest) == len(wishes):
        return None, rest
    model = wishes.get("model_draft")
    for name in _DRAFTING.keys() & wishes.keys():
        value = wishes[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise UsageError(f"{name} must be a number or None, got {value!r:.60}")
    numbers = {name: wishes.get(keyword) for keyword, name in _DRAFTING.items()}
    return draft_options(wishes.get("spec_type"), None if model is None else Path(model), **numbers), rest


def with_wishes(
    options: EngineOptions, placement: PlacementWishes, wishes: Mapping[str, Any]
) -> tuple[EngineOptions, PlacementWishes]:
    """These, with what keywords of `open_model` say instead.

    Raises:
        UsageError: a value that makes no sense.
        TypeError: there is no such keyword.
    """
    for name in wishes:
        if name not in ModelWishes.__annotations__:
            raise TypeError(f"open_model() got an unexpected keyword argument {name!r}")
    values = {_FIELDS.get(name, name): _checked(name, value) for name, value in wishes.items()}
    placing = {name: value for name, value in values.items() if name in _PLACING}
    running = {name: value for name, value in values.items() if name not in _PLACING}
    return replace(options, **running), replace(placement, **placing)


def _checked(name: str, value: Any) -> Any:
    """As a field takes it. Raises UsageError."""
    kind = ModelWishes.__annotations__[name]
    if name in ("vram_budget", "tensor_split"):
        if value is None:
            return None
        numbers = _numbers(name, value)
        return tuple(map(budget_bytes, numbers)) if name == "vram_budget" else _shares(numbers, name)
    if name == "override_tensor":
        texts = (value,) if isinstance(value, str) else tuple(value)
        parse_overrides(texts)
        return texts
    if name == "device" and value not in ("cuda", "mps", "cpu", None):
        raise UsageError(f'device must be "cuda", "mps" or "cpu", got {value!r:.60}')
    if name == "adaptive" and value not in ("on", "off", "auto"):
        raise UsageError(f'adaptive must be "on", "off" or "auto", got {value!r:.60}')
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is int and not whole:
        raise UsageError(f"{name} must be a whole number, got {value!r:.60}")
    if kind == int | None and not (whole or value is None):
        raise UsageError(f"{name} must be a whole number or None, got {value!r:.60}")
    if name in _LEAST and value is not None and value < _LEAST[name]:
        raise UsageError(f"{name} must be {_LEAST[name]} or more, got {value}")
    return value


_LEAST = {"n_gpu_layers": -1, "main_gpu": 0, "n_cpu_moe": 0}


def _numbers(name: str, value: Any) -> list[float]:
    found = [value] if isinstance(value, Real) or not isinstance(value, Iterable) else list(value)
    if not found or isinstance(value, str) or not all(isinstance(one, Real) for one in found):
        raise UsageError(f"{name} must be a number, or one for each GPU, got {value!r:.60}")
    return [float(one) for one in found]


def parse_shares(text: str) -> tuple[float, ...]:
    """The numbers of -ts, by commas or slashes. Raises UsageError."""
    try:
        numbers = [float(part) for part in text.replace("/", ",").split(",")]
    except ValueError:
        numbers = []
    return _shares(numbers, f"-ts {text[:40]!r}")


def _shares(numbers: Sequence[float], said: str) -> tuple[float, ...]:
    if not numbers or not all(share >= 0 and math.isfinite(share) for share in numbers) or not sum(numbers):
        raise UsageError(f"{said}: must be numbers from 0 on, one for each GPU, not all 0, as 3,1")
    return tuple(numbers)


def logged() -> LoadEvents:
    """Remarks go to the logger of the package, warnings as such; so does what takes a while, when it begins."""
    logger = logging.getLogger("powerinfer_cli")
    begun: set[str] = set()

    def note(line: str) -> None:
        logger.log(logging.WARNING if line.startswith("warning: ") else logging.INFO, "%s", line)

    def progress(what: str, _done: int, _total: int) -> None:
        if what not in begun:
            begun.add(what)
            logger.info("%s", what)

    return LoadEvents(note, progress)
