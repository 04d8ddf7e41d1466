"""What the engine's thread has done since it started, for /metrics, and one record of each request, for the log."""

from dataclasses import dataclass

from powerinfer_cli.runtime.stats import Drafted

__all__ = ["CachedTexts", "Counters", "ServedRequest", "Tally"]

NOTHING_DRAFTED = Drafted()


@dataclass(frozen=True)
class ServedRequest:
    """One request at its end. stop: a Stop's value, "embedding", "cancelled", or "error".

    n_prompt: tokens of the prompt, n_cached of which were there already. ms: from its coming to its end, waiting
    included; prompt_ms and predicted_ms: of these, reading and writing. id_slot: -1 where it never got one.
    """

    label: str
    id_task: int
    id_slot: int
    n_prompt: int
    n_cached: int
    n_predicted: int
    prompt_ms: float
    predicted_ms: float
    stop: str
    ms: float

    @property
    def prompt_per_second(self) -> float:
        """Prompt tokens read a second; 0 where none were."""
        return 1e3 * (self.n_prompt - self.n_cached) / self.prompt_ms if self.prompt_ms > 0 else 0.0

    @property
    def predicted_per_second(self) -> float:
        """Tokens written a second; the first costs nothing, since it follows from the prompt's last step."""
        return 1e3 * max(0, self.n_predicted - 1) / self.predicted_ms if self.predicted_ms > 0 else 0.0


@dataclass(frozen=True)
class CachedTexts:
    """In the prompt cache now, texts and bytes; and since the start, texts that came, that were put back into a slot,
    and that made room.
    """

    n_texts: int
    n_bytes: int
    kept: int
    restored: int
    dropped: int


@dataclass(frozen=True)
class Counters:
    """Since the start, unless it says `now`. Times in seconds.

    prompt_tokens: read, without those that were there already (prompt_tokens_cached). prompt_seconds: of steps that
    carried any. predicted_steps, predicted_seconds: of requests that have ended, each without its first token;
    predicted_tokens: with it. n_decode: steps. n_busy_slots: slots with something to do, summed over steps.
    n_tokens_max: the longest sequence so far. kv_tokens, kv_capacity: tokens in caches now, and how many fit.
    requests_processing, requests_deferred: now in slots, now waiting. active_share, predicted_share: of neurons, 0..1,
    None where nothing sparse has run; hot_share: of the active ones, those that GPUs have computed. chosen_hot_share:
    of the experts that were chosen, those that lay on GPUs; uploads, moved_bytes: experts, or groups of neurons, that
    took the place of others there, and their bytes. kv_gpu_bytes, kv_overflow_bytes: of the KV cache of layers on GPUs,
    what is there, and what is in main memory. compute_seconds: of the engine; cold_seconds and cold_wait_seconds of
    them: the CPU computed for layers on GPUs, and waited for that; outside_cold_seconds: all but the former.
    draft_tokens, draft_tokens_accepted, drafts: of requests that have ended. cached: texts that have left their slot.
    """

    prompt_tokens: int
    prompt_tokens_cached: int
    prompt_seconds: float
    predicted_tokens: int
    predicted_steps: int
    predicted_seconds: float
    n_decode: int
    n_busy_slots: int
    n_tokens_max: int
    kv_tokens: int
    kv_capacity: int
    requests_processing: int
    requests_deferred: int
    active_share: float | None
    predicted_share: float | None
    hot_share: float | None
    chosen_hot_share: float | None
    uploads: int
    moved_bytes: int
    kv_gpu_bytes: int
    kv_overflow_bytes: int
    compute_seconds: float
    cold_seconds: float
    cold_wait_seconds: float
    outside_cold_seconds: float
    draft_tokens: int = 0
    draft_tokens_accepted: int = 0
    drafts: int = 0
    cached: CachedTexts | None = None

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache that holds something, 0..1."""
        return self.kv_tokens / self.kv_capacity if self.kv_capacity else 0.0

    @property
    def busy_slots_per_decode(self) -> float:
        """Mean number of slots with something to do."""
        return self.n_busy_slots / max(1, self.n_decode)


@dataclass
class Tally:
    """The sums behind Counters. One thread writes them."""

    prompt_tokens: int = 0
    prompt_tokens_cached: int = 0
    prompt_seconds: float = 0.0
    predicted_tokens: int = 0
    predicted_steps: int = 0
    predicted_seconds: float = 0.0
    n_decode: int = 0
    n_busy_slots: int = 0
    n_tokens_max: int = 0
    draft_tokens: int = 0
    draft_tokens_accepted: int = 0
    drafts: int = 0

    def step(self, seconds: float, n_prompt: int, n_busy: int, longest: int) -> None:
        """One step of the engine, with so many tokens of prompts."""
        self.n_decode += 1
        self.n_busy_slots += n_busy
        self.n_tokens_max = max(self.n_tokens_max, longest)
        self.prompt_tokens += n_prompt
        if n_prompt:
            self.prompt_seconds += seconds

    def ended(self, n_predicted: int, seconds: float, drafted: Drafted = NOTHING_DRAFTED) -> None:
        """One completion that is over."""
        self.draft_tokens += drafted.proposed
        self.draft_tokens_accepted += drafted.accepted
        self.drafts += drafted.drafts
        self.predicted_tokens += n_predicted
        self.predicted_steps += max(0, n_predicted - 1)
        self.predicted_seconds += seconds
