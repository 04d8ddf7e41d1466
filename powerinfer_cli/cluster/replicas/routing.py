"""Serve's request router of replicas. Ray pickles this module by value: it holds no more than what Ray calls."""

from collections import deque
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from powerinfer_cli.cluster.replicas.prefixes import Holders, Load, best
from powerinfer_cli.cluster.replicas.present import tell
from powerinfer_cli.cluster.replicas.questions import Question

__all__ = ["PrefixRouter"]


class PrefixRouter(RequestRouter):  # type: ignore[misc]  # of Ray, which has no types here
    """Asks the replica that has read most of the conversation, or one that is less busy where that is sooner."""

    def initialize_state(self, slots: int = 1, **others: Any) -> None:
        """slots: texts that a replica writes at a time. It gets as many more to have the next ones there."""
        self._slots = slots
        self._holders = Holders()
        self._given: dict[str, tuple[ReplicaID, PendingRequest]] = {}  # by request
        self._turns: deque[str] = deque()  # replicas, the one that was asked last behind the others

    @property
    def max_num_routing_tasks(self) -> int:
        """One for each request that waits: none stands in the way of those that need no slot."""
        return 1 << 16

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        question: Question = pending_request.args[0]
        if question.replica is not None:
            return [[one] for one in candidate_replicas if one.replica_id.unique_id == question.replica]
        if question.writes and self._is_early(pending_request):
            return []
        busy = self._busy()
        by_name = {
            one.replica_id.unique_id: one
            for one in candidate_replicas
            if not question.writes or busy.get(one.replica_id.unique_id, 0) < 2 * self._slots
        }
        if not by_name:
            return []
        known = self._holders.known(question.prefix, by_name)
        loads = [Load(name, known.get(name, 0), busy.get(name, 0)) for name in self._in_turn(by_name)]
        chosen = best(loads, len(question.prefix), self._slots)
        if question.writes:
            self._given[pending_request.metadata.internal_request_id] = by_name[chosen].replica_id, pending_request
        self._turns.remove(chosen)
        self._turns.append(chosen)
        return [[by_name[chosen]]]

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._tell()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._tell()

    def _tell(self) -> None:
        tell(self._deployment_id.name, tuple(one.unique_id for one in self._replica_id_set))

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        question: Question = pending_request.args[0]
        self._holders.note(question.prefix, replica_id.unique_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        given = self._given.get(internal_request_id)
        if given is not None and given[0] == replica_id:
            self._given.pop(internal_request_id, None)

    def _busy(self) -> dict[str, int]:
        """Texts by replica. Who was cancelled between choosing and sending is never told of as completed."""
        busy: dict[str, int] = {}
        for request, (replica_id, pending) in list(self._given.items()):
            if pending.future.cancelled():
                self._given.pop(request, None)
            else:
                busy[replica_id.unique_id] = busy.get(replica_id.unique_id, 0) + 1
        return busy

    def _is_early(self, pending_request: PendingRequest) -> bool:
        """Does another one wait for a slot since before?"""
        for other in self._pending_requests_to_fulfill:
            if other is pending_request:
                return False
            if not other.future.done() and other.args[0].writes:
                return True
        return False

    def _in_turn(self, names: Any) -> list[str]:
        known = set(self._turns)
        current = {one.unique_id for one in self._replica_id_set}
        self._turns = deque(name for name in self._turns if name in current or name in names)
        self._turns.extendleft(name for name in names if name not in known)
        return [name for name in self._turns if name in names]
