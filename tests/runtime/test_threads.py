"""How many threads run, and where: on machines that this one is not, and for real."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.kernels.jit.team import Team
from powerinfer_cli.runtime.threads import (
    default_threads,
    numa_cores,
    parse_cpu_mask,
    parse_cpu_range,
)
from powerinfer_cli.system import cores as system_cores
from powerinfer_cli.system.cores import physical_cores, usable_cores


class Machine:
    """Stands for the files and calls that tell of cores."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch
        monkeypatch.setattr(system_cores, "_CPUS", folder / "cpu")
        monkeypatch.setattr(system_cores, "_NODES", folder / "node")

    def usable(self, cores: Sequence[int], here: int = 0) -> None:
        self._monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cores))
        self._monkeypatch.setattr(os, "sched_getcpu", lambda: here, raising=False)

    def siblings(self, *groups: str) -> None:
        """Logical cores that share a physical one, as "0,4"."""
        for group in groups:
            for core in group.split(","):
                self._write(f"cpu/cpu{core}/topology/thread_siblings_list", group)

    def nodes(self, *lists: str) -> None:
        for number, cores in enumerate(lists):
            self._write(f"node/node{number}/cpulist", cores)

    def _write(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path, monkeypatch)
    made.usable(range(8))
    return made


def test_siblings_count_once(machine: Machine) -> None:
    machine.siblings("0,4", "1,5", "2,6", "3,7")
    assert physical_cores(range(8)) == default_threads() == 4
    machine.usable([1, 2, 5])
    assert default_threads() == 2
    assert default_threads((frozenset({0}), frozenset({4, 7}))) == 2


def test_a_system_that_tells_nothing_has_as_many_cores_as_it_shows(machine: Machine) -> None:
    assert physical_cores([0, 3]) == 2
    assert physical_cores([]) == 1


@pytest.mark.parametrize(("text", "cores"), [("1", {0}), ("0xA", {1, 3}), ("ff", set(range(8))), ("0X10", {4})])
def test_mask(machine: Machine, text: str, cores: set[int]) -> None:
    assert parse_cpu_mask(text) == cores


@pytest.mark.parametrize("text", ["", "0", "-1", "xyz", "f" * 1025])
def test_wrong_mask(machine: Machine, text: str) -> None:
    with pytest.raises(UsageError, match=r"--cpu-mask .*not a hexadecimal mask"):
        parse_cpu_mask(text)


@pytest.mark.parametrize(("text", "cores"), [("0-3", {0, 1, 2, 3}), ("5-5", {5}), ("6-", {6, 7}), ("-1", {0, 1})])
def test_range(machine: Machine, text: str, cores: set[int]) -> None:
    assert parse_cpu_range(text) == cores


@pytest.mark.parametrize("text", ["", "3", "4-2", "a-b", "1-2-3", "0-4096", "0-" + "9" * 50])
def test_wrong_range(machine: Machine, text: str) -> None:
    with pytest.raises(UsageError, match=r"--cpu-range .*not a range"):
        parse_cpu_range(text)


def test_a_core_that_is_not_there(machine: Machine) -> None:
    with pytest.raises(PowerInferError, match="core 8 is not there"):
        parse_cpu_mask("1ff")
    machine.usable([0, 2])
    with pytest.raises(PowerInferError, match="core 1 is not there"):
        parse_cpu_range("0-2")


def test_nodes_in_turn(machine: Machine) -> None:
    machine.nodes("0-1,4-5", "2-3,6-7")
    even, odd = frozenset({0, 1, 4, 5}), frozenset({2, 3, 6, 7})
    assert numa_cores("distribute") == (even, odd)


def test_the_node_where_the_process_is(machine: Machine) -> None:
    machine.nodes("0-3", "4-7")
    machine.usable(range(8), here=6)
    assert numa_cores("isolate") == (frozenset({4, 5, 6, 7}),)


def test_cores_that_are_not_ours_count_for_no_node(machine: Machine) -> None:
    machine.nodes("0-3", "4-7", "8-11", "")
    machine.usable([1, 2, 7], here=1)
    assert numa_cores("distribute") == (frozenset({1, 2}), frozenset({7}))
    machine.usable([1, 2], here=1)
    assert numa_cores("distribute") == ()


def test_nothing_to_choose(machine: Machine) -> None:
    assert numa_cores("isolate") == ()
    machine.nodes("0-7")
    assert numa_cores("distribute") == ()
    machine.nodes("0-3", "4-7")
    assert numa_cores("numactl") == ()
    with pytest.raises(UsageError, match="--numa mirror"):
        numa_cores("mirror")


def allowed(names: Sequence[str]) -> dict[str, set[int]]:
    """Where the threads of these names may run, by the system's own account."""
    found = {t.name: t.native_id for t in threading.enumerate() if t.name in names}
    return {name: os.sched_getaffinity(number) for name, number in found.items() if number is not None}


def test_threads_stay_where_they_are_put() -> None:
    cores = sorted(usable_cores())
    if len(cores) < 2:
        pytest.skip("needs two cores")
    before = os.sched_getaffinity(0)
    where = tuple(frozenset({core}) for core in cores[:2])
    team = Team(3, where)
    try:
        deadline = threading.Event()
        for _ in range(200):
            found = allowed(["powerinfer-1"])
            if found == {"powerinfer-1": where[1]}:
                break
            deadline.wait(0.02)  # the threads pin themselves once they run
        assert found == {"powerinfer-1": where[1]}
        assert os.sched_getaffinity(0) == where[0]
    finally:
        team.close()
        os.sched_setaffinity(0, before)
