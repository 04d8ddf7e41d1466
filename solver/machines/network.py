"""Several machines and what joins them, as a file says it: `machines.json`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.json_text import read_json
from powerinfer_cli.placement import budget_bytes
from solver.placing.device_profile import DeviceProfile, Link, Processor, Rates, bundled_profiles, load_profile

__all__ = ["FORMAT", "HOST", "MOST_NAME", "Machine", "Network", "Wire", "data_sheet_cpu", "read_machines"]

FORMAT = "powerinfer machines 1"
MOST_BYTES = 1 << 20  # of a file
MOST_MACHINES = 64  # as many as ranks
MOST_NAME = 60  # characters
NAME = re.compile(r"\w[\w .:-]*")  # what a terminal, a shell and markup take as it is
HOST = re.compile(r"[A-Za-z0-9:][\w.:%-]*", re.ASCII)  # names and addresses; % before the zone of one of IPv6
GIGA = 1e9
BITS = 8
# What is assumed of memory whose bandwidth is all that is known, as in the bundled data sheets.
DENSE, SCATTERED, CACHE = 0.8, 0.6, 0.7
LAYER, FFN, TOKEN = 2e-5, 1.5e-5, 3e-4  # seconds
NO_LINK = Link(bandwidth=1e10, synchronisation=0.0)


@dataclass(frozen=True)
class Machine:
    """memory: bytes that a rank there may take. vram: bytes by GPU that it may use."""

    name: str
    host: str
    memory: int
    profile: DeviceProfile
    vram: tuple[int, ...] = ()


@dataclass(frozen=True)
class Wire:
    """Between two machines. bandwidth: bytes a second. latency: seconds one way, of a message of no size."""

    bandwidth: float
    latency: float

    def seconds(self, n_bytes: float) -> float:
        """Until so many bytes are there."""
        return self.latency + n_bytes / self.bandwidth


@dataclass(frozen=True)
class Network:
    """machines: in the ranks' order. usual: between two that `wires`, by their places, the lower first, does not have;
    None where there is one machine.
    """

    machines: tuple[Machine, ...]
    usual: Wire | None
    wires: dict[tuple[int, int], Wire]

    def wire(self, one: int, other: int) -> Wire:
        """Between two machines."""
        found = self.wires.get((min(one, other), max(one, other)), self.usual)
        assert found is not None  # as reading has checked
        return found


def data_sheet_cpu(bandwidth: float, name: str = "CPU") -> Processor:
    """A CPU of which only the bytes a second are known that its memory gives."""
    return Processor(
        name, 0, {"any": Rates(DENSE * bandwidth, SCATTERED * bandwidth)}, CACHE * bandwidth, LAYER, FFN, TOKEN
    )


def read_machines(path: Path) -> Network:
    """The machines of a file, each with its costs.

    Raises:
        PowerInferError: one line, which names the machine and the key.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)  # a device has no size, and no end
    except OSError as error:
        raise PowerInferError(f"{path}: cannot read the machines: {error.strerror}") from error
    try:
        if len(text) > MOST_BYTES:
            raise _WrongError("is too large for a list of machines")
        return _network(_parsed(text), path.parent)
    except _WrongError as error:
        raise PowerInferError(f"{path}: {error}") from error


class _WrongError(Exception):
    """What is wrong with the file."""


def _parsed(text: bytes) -> Any:
    try:
        return read_json(text)
    except (ValueError, RecursionError) as error:
        raise _WrongError(f"is not JSON ({type(error).__name__})") from error


def _network(content: Any, folder: Path) -> Network:
    _check_keys("it", content, {"format", "machines"}, {"link", "links"})
    if content["format"] != FORMAT:
        raise _WrongError(f"its format is not {FORMAT!r}")
    listed = content["machines"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_MACHINES:
        raise _WrongError(f"machines must be a list of 1 to {MOST_MACHINES}")
    machines = tuple(_machine(f"machines[{i}]", one, folder) for i, one in enumerate(listed))
    names = [one.name for one in machines]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise _WrongError(f"machines[{i}].name is {name!r}, as that of another machine")
    usual = _wire("link", content["link"]) if "link" in content else None
    wires = _wires(content.get("links", []), names)
    pairs = [(i, j) for j in range(len(names)) for i in range(j)]
    if usual is None and (bare := next((pair for pair in pairs if pair not in wires), None)):
        one, other = (names[i] for i in bare)
        raise _WrongError(f"link is missing, and links has nothing between {one!r} and {other!r}")
    return Network(machines, usual, wires)


def _machine(where: str, content: Any, folder: Path) -> Machine:
    allowed = {"host", "costs", "memory_gb_s", "vram_gib"}
    _check_keys(where, content, {"name", "memory_gib"}, allowed)
    name = _text(f"{where}.name", content["name"])
    if not NAME.fullmatch(name):
        raise _WrongError(f"{where}.name is {name!r}, but must be of letters, digits, spaces and _ . : -")
    where = f"{where} ({name})"
    memory = budget_bytes(_number(f"{where}.memory_gib", content["memory_gib"], 1e-3, 1 << 20))
    profile = _profile(where, content, folder)
    vram = content.get("vram_gib", [])
    if not isinstance(vram, list):
        raise _WrongError(f"{where}.vram_gib must be a list, a number for each GPU")
    if len(vram) > len(profile.gpus):
        gpus = len(profile.gpus)
        raise _WrongError(f"{where}.vram_gib has {len(vram)} numbers, but its costs are those of {gpus} GPUs: one each")
    budgets = tuple(budget_bytes(_number(f"{where}.vram_gib", one, 0, 1 << 20)) for one in vram)
    return Machine(name, _host(where, content, name), memory, profile, budgets)


def _host(where: str, content: Any, name: str) -> str:
    """As --hosts takes it, which divides at commas."""
    if "host" not in content and not HOST.fullmatch(name):
        raise _WrongError(f"{where} has no host, and its name is none: give the address at which others reach it")
    host = _text(f"{where}.host", content.get("host", name))
    if not HOST.fullmatch(host):
        raise _WrongError(f"{where}.host is {host!r}, but must be a host's name or an address")
    return host


def _profile(where: str, content: Any, folder: Path) -> DeviceProfile:
    """Of the file or data sheet that it names; its memory's bandwidth, where that is given, makes another CPU of it."""
    named, bandwidth = content.get("costs"), content.get("memory_gb_s")
    if named is None and bandwidth is None:
        raise _WrongError(f"{where} has neither costs nor memory_gb_s: one of them tells how fast it is")
    cpu = None
    if bandwidth is not None:
        cpu = data_sheet_cpu(GIGA * _number(f"{where}.memory_gb_s", bandwidth, 1e-3, 1e6))
    if named is None:
        assert cpu is not None  # one of both is given
        return DeviceProfile("data sheet", "By its memory's bandwidth.", cpu, (), NO_LINK)
    named = _text(f"{where}.costs", named, most=1000)
    try:
        found = load_profile(named if named in bundled_profiles() else str(folder / named))
    except PowerInferError as error:
        raise _WrongError(f"{where}.costs: {error}") from error
    return found if cpu is None else DeviceProfile(found.source, found.note, cpu, found.gpus, found.link)


def _wires(content: Any, names: list[str]) -> dict[tuple[int, int], Wire]:
    if not isinstance(content, list) or len(content) > MOST_MACHINES**2:
        raise _WrongError("links must be a list, of pairs of machines")
    found: dict[tuple[int, int], Wire] = {}
    for i, one in enumerate(content):
        where = f"links[{i}]"
        _check_keys(where, one, {"between", "gbit_s", "latency_us"})
        between = one["between"]
        known = isinstance(between, list) and len(between) == 2 and all(name in names for name in between)
        if not known or between[0] == between[1]:
            raise _WrongError(f"{where}.between must name two of the machines")
        first, second = sorted(map(names.index, between))
        if (first, second) in found:
            raise _WrongError(f"{where}.between names two that another link has")
        found[first, second] = _wire(where, {key: one[key] for key in ("gbit_s", "latency_us")})
    return found


def _wire(where: str, content: Any) -> Wire:
    _check_keys(where, content, {"gbit_s", "latency_us"})
    rate = _number(f"{where}.gbit_s", content["gbit_s"], 1e-6, 1e6)
    return Wire(GIGA * rate / BITS, _number(f"{where}.latency_us", content["latency_us"], 0, 1e8) / 1e6)


def _check_keys(where: str, content: Any, wanted: set[str], allowed: set[str] | None = None) -> None:
    if not isinstance(content, dict):
        raise _WrongError(f"{where} is not an object")
    unknown = content.keys() - wanted - (allowed or set())
    for name, keys in (("lacks", wanted - content.keys()), ("has an unknown", unknown)):
        if keys:
            raise _WrongError(f"{where} {name} {min(keys)[:40]!r}")


def _number(where: str, value: Any, least: float, most: float) -> float:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
    if not fine:
        raise _WrongError(f"{where} is {str(value)[:40]!r}, but must be a number from {least:g} to {most:g}")
    return float(value)


def _text(where: str, value: Any, most: int = MOST_NAME) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > most:
        raise _WrongError(f"{where} must be a line of text, {most} characters at most")
    return value
