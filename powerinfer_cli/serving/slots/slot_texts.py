"""How a slot comes to hold another text: of what it held, what goes to the cache, and what comes from there."""

from collections.abc import Callable, Sequence

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.slots.engine_like import EngineLike
from powerinfer_cli.serving.slots.prompt_cache import CachedText, Match, PromptCache
from powerinfer_cli.serving.slots.scheduler import reusable
from powerinfer_cli.serving.slots.slot import Slot

__all__ = ["SlotTexts"]

KEPT_SHARE = 0.5
"""Of what a slot holds, as llama-server has it: where a prompt goes on from less, what was there is kept elsewhere."""


class SlotTexts:
    """Of one engine. cache: None where texts that leave their slot are forgotten."""

    def __init__(
        self,
        engine: EngineLike,
        slots: Sequence[Slot],
        cache: PromptCache | None,
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._engine, self._slots, self.cache, self._on_fault = engine, slots, cache, on_fault

    def elsewhere(self, prompt: Sequence[int]) -> int:
        """How many of a prompt's first tokens come with a text in the cache."""
        match = None if self.cache is None else self.cache.match(prompt)
        return 0 if match is None else match.n

    def enter(self, slot: Slot, prompt: Sequence[int], *, reuse: bool) -> int:
        """A prompt is to be read: how many of its first tokens the slot holds now, and nothing else. reuse: these may
        be more than none.
        """
        held = self._engine.tokens_of(slot.id)
        known = self._engine.left(reusable(prompt, held), slot.id) if reuse else 0
        match = self.cache.match(prompt, known) if reuse and self.cache is not None else None
        if match is not None:
            self.leave(slot.id, beside=match.text)
            if self._restored(match, slot):
                known = reusable(prompt, self._engine.tokens_of(slot.id))
        elif known < KEPT_SHARE * len(held):
            self.leave(slot.id)
        return self._engine.truncate(known, slot.id)

    def leave(self, sequence: int, beside: CachedText | None = None) -> None:
        """What a sequence holds is about to go. beside: what is to stay in the cache."""
        if self.cache is None:
            return
        try:
            self.cache.keep(sequence, beside)
        except Exception as error:  # no memory, say: whoever comes next is not to suffer for it
            self._on_fault(error)

    def _restored(self, match: Match, slot: Slot) -> bool:
        """Whether the slot holds the text now. Others that nobody uses make room for it."""
        assert self.cache is not None
        needed = self.cache.needed(match) - len(self._engine.tokens_of(slot.id))
        others = [one for one in self._slots if one.running is None and one is not slot]
        if needed > self._engine.n_free + sum(one.n_tokens for one in others):
            return False
        for other in sorted(others, key=lambda one: one.last_used):
            if needed <= self._engine.n_free:
                break
            self.leave(other.id, beside=match.text)
            self._engine.truncate(0, other.id)
            other.n_tokens = 0
        try:
            self.cache.restore(match, slot.id)
        except PowerInferError as error:
            self._on_fault(error)
            self.cache.drop(match.text)
            return False
        return True
