"""What work costs on a machine: its CPU, its GPUs, and the link between them. Measured here, or from data sheets."""

import json
import math
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import replacing

__all__ = ["DeviceProfile", "Link", "Processor", "Rates", "bundled_profiles", "load_profile", "save_profile"]

FOLDER = Path(__file__).parent / "profiles"
FORMAT = "powerinfer device profile 1"
ANY_TYPE = "any"  # stands for the weight types that a profile does not name
MOST_BYTES = 1 << 20  # of a file
MOST_GPUS = 64
MEASURED, DATA_SHEET = "measured", "data sheet"


@dataclass(frozen=True)
class Rates:
    """Bytes of weights a second: of matrices from front to back, of rows of neurons here and there, and of experts that
    a router chooses; None: as of matrices.
    """

    dense: float
    scattered: float
    experts: float | None = None

    @property
    def chosen(self) -> float:
        """Of experts."""
        return self.dense if self.experts is None else self.experts


@dataclass(frozen=True)
class Processor:
    """A CPU with its main memory, or a GPU.

    memory: bytes, 0 if not known. rates: by ggml's name of a weight type, "any" for all others. cache: bytes of keys
    and values a second. layer: seconds that a layer costs besides what it reads: launches, barriers, norms. ffn: that
    a sparse FFN costs besides, or on a GPU any; experts: that one of experts does, None: as much. token: seconds that a
    token costs besides its layers.
    """

    name: str
    memory: int
    rates: Mapping[str, Rates]
    cache: float
    layer: float
    ffn: float
    token: float
    experts: float | None = None

    @property
    def routing(self) -> float:
        """Seconds that an FFN of experts costs besides what it reads."""
        return self.ffn if self.experts is None else self.experts

    def rates_for(self, weight_type: str) -> Rates:
        """For weights of a type."""
        return self.rates.get(weight_type, self.rates[ANY_TYPE])


@dataclass(frozen=True)
class Link:
    """Between a GPU and main memory. bandwidth: bytes a second. synchronisation: seconds to hand a layer's input to
    the CPU and to take its part of the sum back, with the waiting, but without what the bytes themselves take.
    rehearsed: the GPU is the CPU itself, so that both never work at the same time. unified: the GPU has no memory of
    its own, so that each has its rate only while the other does not read.
    """

    bandwidth: float
    synchronisation: float
    rehearsed: bool = False
    unified: bool = False

    @property
    def in_turns(self) -> bool:
        """Whether the times of both sides add up."""
        return self.rehearsed or self.unified


@dataclass(frozen=True)
class DeviceProfile:
    """source: "measured" or "data sheet". note: for people."""

    source: str
    note: str
    cpu: Processor
    gpus: tuple[Processor, ...]
    link: Link

    def gpu(self, index: int) -> Processor:
        """A GPU; one that the profile does not have is like its last."""
        return self.gpus[min(index, len(self.gpus) - 1)]


def bundled_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with the program."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def load_profile(name: str) -> DeviceProfile:
    """A bundled profile by its name, or a file.

    Raises:
        PowerInferError: there is no such profile, or the file is not one.
    """
    path = FOLDER / f"{name}.json" if name in bundled_profiles() else Path(name)
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)  # a device has no size, and no end
        if len(text) > MOST_BYTES:
            raise PowerInferError(f"{path}: too large for a device profile")
        content = json.loads(text.decode("utf-8"))
    except OSError as error:
        known = ", ".join(bundled_profiles())
        raise PowerInferError(f"{name}: cannot read the device profile: {error.strerror} (bundled: {known})") from error
    except (ValueError, RecursionError) as error:
        raise PowerInferError(f"{path}: not a device profile: not JSON ({type(error).__name__})") from error
    try:
        return _profile(content)
    except _WrongError as error:
        raise PowerInferError(f"{path}: not a device profile: {error}") from error


def save_profile(path: Path, profile: DeviceProfile) -> None:
    """Write a profile as JSON, all or nothing. Raises PowerInferError."""
    content = {
        "format": FORMAT,
        "source": profile.source,
        "note": profile.note,
        "cpu": _written(profile.cpu),
        "gpus": [_written(gpu) for gpu in profile.gpus],
        "link": asdict(profile.link),
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _written(processor: Processor) -> dict[str, Any]:
    fields = asdict(processor)
    rates = {kind: _known(asdict(found)) for kind, found in processor.rates.items()}
    return _known(fields) | {"rates": rates}


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


class _WrongError(Exception):
    """What is wrong with a profile."""


def _profile(content: Any) -> DeviceProfile:
    _check_keys("it", content, {"format", "source", "note", "cpu", "gpus", "link"})
    if content["format"] != FORMAT:
        raise _WrongError(f"its format is not {FORMAT!r}")
    if content["source"] not in (MEASURED, DATA_SHEET):
        raise _WrongError(f"its source is neither {MEASURED!r} nor {DATA_SHEET!r}")
    gpus, link = content["gpus"], content["link"]
    if not isinstance(gpus, list) or len(gpus) > MOST_GPUS:
        raise _WrongError("gpus is not a list, or too long")
    _check_keys("link", link, {"bandwidth", "synchronisation"}, {"rehearsed", "unified"})
    for name in ("rehearsed", "unified"):
        if not isinstance(link.get(name, False), bool):
            raise _WrongError(f"link.{name} is neither true nor false")
    return DeviceProfile(
        source=content["source"],
        note=_text("note", content["note"]),
        cpu=_processor("cpu", content["cpu"]),
        gpus=tuple(_processor(f"gpus[{index}]", gpu) for index, gpu in enumerate(gpus)),
        link=Link(
            _number("link.bandwidth", link["bandwidth"], positive=True),
            _number("link.synchronisation", link["synchronisation"]),
            link.get("rehearsed", False),
            link.get("unified", False),
        ),
    )


def _processor(where: str, content: Any) -> Processor:
    _check_keys(where, content, {"name", "memory", "rates", "cache", "layer", "ffn", "token"}, {"experts"})
    rates = content["rates"]
    if not isinstance(rates, dict) or ANY_TYPE not in rates:
        raise _WrongError(f"{where}.rates has nothing for {ANY_TYPE!r}")
    for kind, pair in rates.items():
        _check_keys(f"{where}.rates.{kind[:20]}", pair, {"dense", "scattered"}, {"experts"})
    return Processor(
        name=_text(f"{where}.name", content["name"]),
        memory=int(_number(f"{where}.memory", content["memory"])),
        rates={kind: Rates(**_rates(f"{where}.rates.{kind[:20]}", pair)) for kind, pair in rates.items()},
        cache=_number(f"{where}.cache", content["cache"], positive=True),
        layer=_number(f"{where}.layer", content["layer"]),
        ffn=_number(f"{where}.ffn", content["ffn"]),
        token=_number(f"{where}.token", content["token"]),
        experts=_number(f"{where}.experts", content["experts"]) if "experts" in content else None,
    )


def _rates(where: str, pair: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(f"{where}.{name}", value, positive=True) for name, value in pair.items()}


def _check_keys(where: str, content: Any, wanted: set[str], allowed: Set[str] = frozenset()) -> None:
    if not isinstance(content, dict):
        raise _WrongError(f"{where} is not an object")
    for name, keys in (("lacks", wanted - content.keys()), ("has an unknown", content.keys() - wanted - allowed)):
        if keys:
            raise _WrongError(f"{where} {name} {min(keys)[:40]!r}")


def _number(where: str, value: Any, *, positive: bool = False) -> float:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e18  # refuses NaN as well
    if not fine or not math.isfinite(value) or (positive and value < 1e-9):
        raise _WrongError(f"{where} is {str(value)[:40]!r}, but must be a number {'above' if positive else 'from'} 0")
    return float(value)


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > 1000:
        raise _WrongError(f"{where} is not a line of text")
    return value
