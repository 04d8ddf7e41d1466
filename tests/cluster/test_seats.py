"""Which rank this is: by flags, by hosts, by torchrun's variables."""

import pytest

from powerinfer_cli.cluster.seats import Seat, seat_of
from powerinfer_cli.cluster.wires import is_loopback
from powerinfer_cli.errors import UsageError

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29501"}


def test_torchruns_variables() -> None:
    assert seat_of(None, None, None, (), TORCHRUN) == Seat(1, 3, "10.0.0.1", 29501)


@pytest.mark.parametrize(("said", "port"), [("29501", 29502), ("65535", 65534)])
def test_torchrun_listens_at_its_port_itself(said: str, port: int) -> None:
    own = TORCHRUN | {"MASTER_PORT": said, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert seat_of(None, None, None, (), own).port == port
    assert seat_of(None, None, "10.0.0.9", (), own).port == port
    assert seat_of(None, None, "10.0.0.9:77", (), own).port == 77
    assert seat_of(None, None, None, (), own | {"TORCHELASTIC_USE_AGENT_STORE": "False"}).port == int(said)


def test_flags_win() -> None:
    assert seat_of(2, 4, "10.0.0.9:77", (), TORCHRUN) == Seat(2, 4, "10.0.0.9", 77)
    assert seat_of(0, 2, None, (), {}) == Seat(0, 2, "127.0.0.1", 29500)
    assert seat_of(0, 2, "node", (), {}) == Seat(0, 2, "node", 29500)
    assert seat_of(0, 2, "[::1]:80", (), {}) == Seat(0, 2, "::1", 80)
    assert seat_of(0, 2, "[::1]", (), {}) == seat_of(0, 2, "::1", (), {}) == Seat(0, 2, "::1", 29500)


def test_hosts_say_it_all() -> None:
    """203.0.113.0/24 is for documentation: no machine has it."""
    hosts = "203.0.113.1", "127.0.0.1"
    assert seat_of(None, None, None, hosts, {}) == Seat(1, 2, "203.0.113.1", 29500, hosts)
    found = seat_of(0, None, None, ["203.0.113.1", "203.0.113.2"], {})
    assert found == Seat(0, 2, "203.0.113.1", 29500, ("203.0.113.1", "203.0.113.2"))
    assert (found.name(1), Seat(0, 2, "a", 1).name(1)) == ("rank 1 (203.0.113.2)", "rank 1")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ((None, None, None, (), {}), "which rank is this"),
        ((None, 2, None, (), {}), "--rank"),
        ((0, 1, None, (), {}), "--world-size must be 2 to 64, got 1: one machine needs `powerinfer main`"),
        ((2, 2, None, (), {}), "--rank must be 0 to 1 of 2 ranks, got 2"),
        ((0, 3, None, ("a", "b"), {}), "--world-size 3, but --hosts names 2"),
        ((None, None, None, ("203.0.113.1", "203.0.113.2"), {}), "none of these hosts is this machine"),
        ((None, None, None, ("127.0.0.1", "127.0.0.1"), {}), "2 of these hosts are this machine"),
        ((0, 2, "host:port", (), {}), "--master: a whole number is missing, got 'port'"),
        ((0, 2, "host:99999", (), {}), "--master: a port is 1 to 65535, got 99999"),
        ((0, 2, "host:0", (), {}), "--master: a port is 1 to 65535, got 0"),
        ((0, 2, "host:", (), {}), "--master: a whole number is missing, got ''"),
        ((0, 2, ":80", (), {}), "--master: a host is missing, got ':80'"),
        ((None, None, None, (), TORCHRUN | {"MASTER_PORT": "70000"}), "MASTER_PORT: a port is 1 to 65535, got 70000"),
        ((None, None, None, (), TORCHRUN | {"RANK": "one"}), "RANK: a whole number is missing"),
    ],
)
def test_what_makes_no_sense(given: tuple[object, ...], line: str) -> None:
    with pytest.raises(UsageError) as raised:
        seat_of(*given)
    assert line in str(raised.value)


def test_loopback() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("localhost")
    assert is_loopback("::1")
    assert not is_loopback("203.0.113.1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("no such host")
