"""How ranks find each other: all call rank 0, which compares them; then each is called by the rank before it, rank 0
by the last one.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from powerinfer_cli.cluster.callers import PROOF_S, Callers
from powerinfer_cli.cluster.controls import Controls
from powerinfer_cli.cluster.hello import MOST_BYTES, Hello, Plan, difference
from powerinfer_cli.cluster.messages import Message, Op, receive, why, worded
from powerinfer_cli.cluster.seats import Seat
from powerinfer_cli.cluster.secret import OTHER_KEY, prove_calling
from powerinfer_cli.cluster.wires import Lost, Said, Wire, call
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.listening import listen_at

__all__ = ["Joined", "Meeting", "gather", "join"]

ANSWER_S = 8.0  # for the proof of who was called: within the 10 in which all end
SLACK_S = 10.0  # that who is called waits longer than who calls, and others than rank 0: these know who is missing
BACKLOG = 16

Note = Callable[[str], None]


@dataclass(frozen=True)
class Meeting:
    """Who meets, with which secret, and how long they wait for each other. port: where the rank before calls this one,
    of another rank than 0; 0: any that is free.
    """

    seat: Seat
    key: bytes
    seconds: float
    note: Note
    port: int = 0


@dataclass(frozen=True)
class Joined:
    """This rank's connections. controls: to whom it tells how it is: of rank 0 all others, of these rank 0; before,
    behind: from and to the ranks beside it, in a ring. ready: what rank 0 was told meanwhile by who has loaded its
    layers.
    """

    n_ctx: int
    controls: dict[int, Wire]
    before: Wire
    behind: Wire
    ready: dict[int, Message] = field(default_factory=dict)


def gather(meeting: Meeting, hello: Hello) -> Joined:
    """As rank 0: wait for all others.

    Raises:
        PowerInferError: one does not come, or is none that can be joined. Those that came are told.
    """
    seat = meeting.seat
    found: dict[int, tuple[Wire, Hello]] = {}
    with listen_at(seat.host, seat.port, "--master", BACKLOG) as door:
        try:
            with Callers(door, meeting.key, MOST_BYTES, meeting.note) as callers:
                _wait(callers, meeting, hello, found)
            n_ctx = min(hello.n_ctx, *(other.n_ctx for _, other in found.values()))
            addresses = {rank: (wire.peer, other.port) for rank, (wire, other) in found.items()}
            for rank, (wire, _) in found.items():
                try:
                    Plan(n_ctx, addresses.get(rank + 1)).message().send(wire)
                except Lost as error:
                    raise Lost(f"{seat.name(rank)} ({wire.peer}) {error}") from error
            controls = Controls(seat, {rank: wire for rank, (wire, _) in found.items()})
            behind = _call_behind(meeting, addresses[1], controls)
            try:
                before = _called(door, meeting, controls)
            except Lost:
                behind.close()
                raise
        except (Lost, PowerInferError) as error:
            for wire, _ in found.values():
                _tell(wire, Op.GONE, str(error))
                wire.close()
            raise PowerInferError(str(error)) from error
    return Joined(n_ctx, controls.wires, before, behind, controls.ready)


def _wait(callers: Callers, meeting: Meeting, hello: Hello, found: dict[int, tuple[Wire, Hello]]) -> None:
    """Until all other ranks are found. Raises PowerInferError: one does not come, or is none that can be joined."""
    seat, deadline = meeting.seat, time.monotonic() + meeting.seconds
    while len(found) < seat.n_ranks - 1:
        came = callers.next()
        for rank in [rank for rank, (wire, _) in found.items() if wire.speaks]:  # nothing is to be said yet
            wire, _ = found.pop(rank)
            wire.close()
            meeting.note(f"warning: rank {rank} ({wire.peer}) has ended: waiting until it is started again")
        if came is not None:
            wire, said = came
            try:
                other = Hello.of(said)
            except Lost as error:
                callers.refuse(wire, str(error))
                continue
            problem = difference(hello, other) or _misplaced(seat, other, found)
            if problem is not None:
                _tell(wire, Op.GONE, f"this rank {problem}")
                wire.close()
                raise PowerInferError(f"rank {other.rank} ({wire.peer}) {problem}")
            wire.limit(PROOF_S)
            found[other.rank] = wire, other
        elif time.monotonic() > deadline:
            at = f"{seat.host} port {seat.port}"
            raise PowerInferError(f"{missing(seat, found)} not come to {at} within {meeting.seconds:g} s")


def _misplaced(seat: Seat, other: Hello, found: dict[int, tuple[Wire, Hello]]) -> str | None:
    """Why a rank has no place among those of its cluster."""
    if not 0 < other.rank < seat.n_ranks:
        return f"is none of the ranks 1 to {seat.n_ranks - 1}: each needs its own --rank"
    return f"is rank {other.rank}, and so is somebody else: each needs its own --rank" if other.rank in found else None


def missing(seat: Seat, found: dict[int, tuple[Wire, Hello]]) -> str:
    """Which ranks have not come, in words."""
    ranks = [seat.name(rank) for rank in range(1, seat.n_ranks) if rank not in found]
    return f"{ranks[0]} has" if len(ranks) == 1 else f"{', '.join(ranks)} have"


def join(meeting: Meeting, hello: Hello) -> Joined:
    """As another rank: call rank 0, be called by the rank before, and call the one behind.

    Raises:
        PowerInferError: one line, about rank 0 or from it.
    """
    seat = meeting.seat
    master = f"rank 0 ({seat.host} port {seat.port})"
    try:
        control = call((seat.host, seat.port), master, meeting.seconds)
    except Lost as error:
        raise PowerInferError(f"{master} {error}") from error
    try:
        control.limit_all(ANSWER_S)
        prove_calling(control, meeting.key)
    except Lost as error:
        control.close()
        said = str(error) if str(error) == OTHER_KEY else f"{error} before it has proved to be a rank"
        raise PowerInferError(f"{master} {said}") from error
    try:
        with listen_at(control.own_host, meeting.port, "--rank-port", BACKLOG) as door:
            replace(hello, port=door.getsockname()[1]).message().send(control)
            control.limit(meeting.seconds + SLACK_S)
            plan = Plan.of(receive(control, MOST_BYTES), hello.n_ctx)
            controls = Controls(seat, {0: control})
            before = _called(door, meeting, controls)
        try:
            behind = _call_behind(meeting, plan.behind or (seat.host, seat.port), controls)
        except BaseException:
            before.close()
            raise
    except Lost as error:
        line = str(error) if isinstance(error, Said) else f"{master} {error}"
        _tell(control, Op.LOST, line)  # else rank 0 names this one
        control.close()
        raise PowerInferError(line) from error
    except BaseException as error:
        _tell(control, Op.LEAVING, why(error))
        control.close()
        raise
    return Joined(plan.n_ctx, controls.wires, before, behind)


def _called(door: socket.socket, meeting: Meeting, controls: Controls) -> Wire:
    """By the rank before, while those of the controls are there. Raises Said."""
    seconds = meeting.seconds + SLACK_S
    deadline, rank = time.monotonic() + seconds, (meeting.seat.rank - 1) % meeting.seat.n_ranks
    with Callers(door, meeting.key, 0, meeting.note) as callers:
        while time.monotonic() < deadline:
            came = callers.next()
            if came is None:
                controls.look()
                continue
            wire, said = came
            if said.op is Op.HELLO and said.numbers[0] == rank:
                wire.peer = f"rank {rank} ({wire.peer})"
                wire.limit(None)
                return wire
            callers.refuse(wire, f"is not rank {rank}")
    raise Said(f"rank {rank} has not called rank {meeting.seat.rank} within {seconds:g} s")


def _call_behind(meeting: Meeting, address: tuple[str, int], controls: Controls) -> Wire:
    """The rank behind this one, which behind the last is rank 0, while those of the controls are there. Raises Said."""
    rank, (host, port) = meeting.seat.rank, address
    behind = (rank + 1) % meeting.seat.n_ranks
    peer = f"rank {behind} ({host})"
    try:
        wire = call(address, peer, meeting.seconds, controls.look)
    except Said:
        raise
    except Lost as error:
        raise Said(f"rank {behind} ({host} port {port}) {error}") from error
    try:
        wire.limit_all(ANSWER_S)
        prove_calling(wire, meeting.key)
        Message(Op.HELLO, (rank,)).send(wire)
    except Lost as error:
        wire.close()
        raise Said(f"{peer} {error}") from error
    wire.limit(None)
    return wire


def _tell(wire: Wire, op: Op, words: str) -> None:
    """As far as it can be told any more."""
    try:
        worded(op, words).send(wire)
    except Lost:
        return
