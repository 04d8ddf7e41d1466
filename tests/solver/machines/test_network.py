"""Lists of machines: what they say, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.errors import PowerInferError
from solver.machines.network import Wire, read_machines
from solver.placing import load_profile, save_profile

LINK = {"gbit_s": 10, "latency_us": 50}
A, B, C = ({"name": name, "memory_gib": 64, "memory_gb_s": 200} for name in "abc")


def written(folder: Path, *machines: Any, **more: Any) -> Path:
    path = folder / "machines.json"
    path.write_text(json.dumps({"format": "powerinfer machines 1", "machines": list(machines)} | more))
    return path


def test_machines_and_what_joins_them(tmp_path: Path) -> None:
    save_profile(tmp_path / "own.json", load_profile("rtx-3090-ddr5"))
    slow = {"between": ["c", "a"], "gbit_s": 1, "latency_us": 200}
    own = {"name": "b", "host": "10.0.0.2", "memory_gib": 0.5, "costs": "own.json", "vram_gib": [22]}
    found = read_machines(written(tmp_path, A, own, C | {"costs": "rtx-4090-ddr5"}, link=LINK, links=[slow]))
    a, b, c = found.machines
    assert (a.name, a.host, a.memory, a.vram) == ("a", "a", 64 << 30, ())
    assert a.profile.cpu.rates_for("Q4_0").dense == pytest.approx(160e9)
    assert (b.host, b.memory, b.vram) == ("10.0.0.2", 1 << 29, (22 << 30,))
    assert b.profile == load_profile("rtx-3090-ddr5")
    assert c.profile.cpu == a.profile.cpu  # its own memory, but a data sheet's GPU
    assert c.profile.gpus == load_profile("rtx-4090-ddr5").gpus
    assert found.wire(0, 2) == found.wire(2, 0) == Wire(1e9 / 8, 2e-4)
    assert found.wire(1, 2) == Wire(1e10 / 8, 5e-5)
    assert found.wire(1, 2).seconds(1e10 / 8) == pytest.approx(1.00005)


@pytest.mark.parametrize("host", ["10.0.0.2", "fe80::1%eth0", "::1", "node-3.rack_1.lan"])
def test_hosts(tmp_path: Path, host: str) -> None:
    (found,) = read_machines(written(tmp_path, A | {"name": "Küche: 2", "host": host})).machines
    assert (found.name, found.host) == ("Küche: 2", host)


def test_one_machine_needs_no_link(tmp_path: Path) -> None:
    assert read_machines(written(tmp_path, A)).usual is None


def without(machine: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in machine.items() if name != key}


@pytest.mark.parametrize(
    ("machines", "more", "line"),
    [
        ([], {"link": LINK}, "machines must be a list of 1 to 64"),
        ([A] * 65, {"link": LINK}, "machines must be a list of 1 to 64"),
        ([A, A], {"link": LINK}, "machines[1].name is 'a', as that of another machine"),
        ([A, B], {}, "link is missing, and links has nothing between 'a' and 'b'"),
        ([A, 7], {"link": LINK}, "machines[1] is not an object"),
        ([A | {"name": "two\nlines"}], {}, "machines[0].name must be a line of text"),
        ([A | {"speed": 1}], {}, "machines[0] has an unknown 'speed'"),
        ([without(A, "memory_gib")], {}, "machines[0] lacks 'memory_gib'"),
        ([A | {"memory_gib": True}], {}, "machines[0] (a).memory_gib is 'True', but must be a number from 0.001"),
        ([A | {"memory_gib": 1e300}], {}, "machines[0] (a).memory_gib is '1e+300'"),
        ([without(A, "memory_gb_s")], {}, "machines[0] (a) has neither costs nor memory_gb_s"),
        ([A | {"vram_gib": [24]}], {}, "machines[0] (a).vram_gib has 1 numbers, but its costs are those of 0 GPUs"),
        ([A | {"costs": "rtx-3090-ddr5", "vram_gib": [1] * 64}], {}, "(a).vram_gib has 64 numbers, but its costs are"),
        ([A | {"vram_gib": 1}], {}, "machines[0] (a).vram_gib must be a list"),
        ([A | {"name": "a[/red]"}], {}, "machines[0].name is 'a[/red]', but must be of letters"),
        ([A | {"host": "x; touch /tmp/pwned #"}], {}, "machines[0] (a).host is 'x; touch /tmp/pwned #', but must be a"),
        ([A | {"host": "a,b"}], {}, "machines[0] (a).host is 'a,b'"),
        ([A | {"host": "--rank=1"}], {}, "machines[0] (a).host is '--rank=1'"),
        ([A | {"name": "my machine"}], {}, "machines[0] (my machine) has no host, and its name is none"),
        ([A | {"costs": "none.json"}], {}, "machines[0] (a).costs: "),
        ([A, B], {"link": LINK | {"gbit_s": 0}}, "link.gbit_s is '0', but must be a number from 1e-06"),
        ([A, B], {"link": LINK | {"latency_us": -1}}, "link.latency_us is '-1'"),
        ([A, B], {"links": [LINK | {"between": ["a", "x"]}]}, "links[0].between must name two of the machines"),
        ([A, B], {"links": [LINK | {"between": [["a"], "b"]}]}, "links[0].between must name two of the machines"),
        ([A, B], {"links": [LINK | {"between": ["a", "b"]}] * 2}, "links[1].between names two that another link has"),
        ([A], {"format": "x"}, "its format is not 'powerinfer machines 1'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, machines: list[Any], more: dict[str, Any], line: str) -> None:
    with pytest.raises(PowerInferError) as raised:
        read_machines(written(tmp_path, *machines, **more))
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", [b"", b"[" * 100_000, b'{"format": NaN}', b"\xff", b" " * (1 << 20) + b"{}"])
def test_no_list_at_all(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "machines.json"
    path.write_bytes(text)
    with pytest.raises(PowerInferError, match=r"machines.json: is (not JSON|too large)"):
        read_machines(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match="cannot read the machines"):
        read_machines(tmp_path / "none.json")
