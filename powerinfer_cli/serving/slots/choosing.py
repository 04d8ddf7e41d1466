"""Which token comes next, and how likely it was."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from powerinfer_cli.sampling import Breakers, Sampler, SamplerOptions, build_sampler
from powerinfer_cli.sampling.grammars.constrained import sample
from powerinfer_cli.serving.tasks import CompletionTask, Likeliest, TokenChance, TokenChances
from powerinfer_cli.text import Tokenizer

__all__ = ["Chooser", "is_plain_greedy", "likeliest", "log_softmax"]

Logits = npt.NDArray[np.float32]


def is_plain_greedy(options: SamplerOptions) -> bool:
    """Whether the sampler's choice is the largest logit, biases added, whatever was written before."""
    o = options
    penalised = "penalties" in o.samplers and (o.penalty_repeat, o.penalty_freq, o.penalty_present) != (1.0, 0.0, 0.0)
    moved = penalised or ("dry" in o.samplers and o.dry_multiplier != 0.0)
    others = o.typ_p < 1.0 or o.xtc_probability > 0.0 or o.dynatemp_range > 0.0 or "adaptive_p" in o.samplers
    return o.temp <= 0.0 and "temperature" in o.samplers and not (o.mirostat or moved or others)


class Chooser:
    """The sampler of one completion, its constraint, and what it tells of chances."""

    def __init__(
        self,
        task: CompletionTask,
        tokenizer: Tokenizer,
        breakers: Callable[[tuple[str, ...]], Breakers],
        n_vocab: int,
        n_ctx: int,
    ) -> None:
        """breakers: DRY's, asked for only where it is on. n_ctx: the training context.

        Raises PowerInferError: options that this vocabulary cannot follow.
        """
        self.sampler: Sampler = build_sampler(
            task.sampler,
            n_vocab=n_vocab,
            n_ctx_train=n_ctx,
            eog_ids=tokenizer.eog_ids,
            breakers=breakers,
        )
        self._task, self._tokenizer = task, tokenizer
        self._constraint = task.constraint() if task.constraint is not None else None
        self._greedy = self._constraint is None and is_plain_greedy(task.sampler)
        if not self._greedy:
            self.sampler.replace_history(_recent(task.prompt, task.sampler))

    def choose(self, logits: Logits) -> tuple[int, TokenChances | None]:
        """The next token of the text, and its chances if the task asks for them. logits: [n_vocab]."""
        after = None
        if self._task.n_probs > 0 and self._task.post_sampling_probs:
            after = self.sampler.probabilities(self._possible(logits))  # before sampling, which moves the draws on
        token = self._next(logits)
        if self._task.n_probs <= 0:
            return token, None
        if after is None:
            return token, self._chances(token, log_softmax(logits))
        return token, self._left(token, *after)

    def accept(self, token: int) -> bool:
        """The text goes on with this token. False where the constraint's text is complete and no token can say so."""
        if self._greedy:
            return True
        self.sampler.accept(token)
        if self._constraint is None:
            return True
        self._constraint.accept(token)
        can_end = bool(self._tokenizer.eog_ids) and not self._task.sampler.ignore_eos
        return can_end or not self._constraint.finished

    def _next(self, logits: Logits) -> int:
        if self._greedy:
            ids, biases = self.sampler.biases
            moved = logits
            if ids.size:
                moved = logits.copy()
                moved[ids] += biases
            best = int(np.argmax(moved))
            if math.isfinite(moved[best]):
                return best
        return sample(self.sampler, logits, self._constraint)

    def _possible(self, logits: Logits) -> Logits:
        if self._constraint is None:
            return logits
        return np.where(self._constraint.allowed(), logits, np.float32(-np.inf))

    def _chances(self, token: int, logprobs: npt.NDArray[np.float64]) -> TokenChances:
        best = likeliest(logprobs, self._task.n_probs)
        return TokenChances(self._chance(token, float(logprobs[token])), Likeliest(best, logprobs[best], self._piece))

    def _left(self, token: int, ids: npt.NDArray[np.intp], probs: npt.NDArray[np.float32]) -> TokenChances:
        own = probs[ids == token]
        chosen = self._chance(token, math.log(own[0]) if own.size else -math.inf)
        n = self._task.n_probs
        return TokenChances(chosen, Likeliest(ids[:n], np.log(probs[:n].astype(np.float64)), self._piece))

    def _chance(self, token: int, logprob: float) -> TokenChance:
        return TokenChance(token, self._piece(token), logprob)

    def _piece(self, token: int) -> bytes:
        shown = self._task.special or token in self._task.preserved
        return self._tokenizer.piece(token, special=shown)


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Logarithms of the probabilities of all tokens, [n_vocab]."""
    values = logits.astype(np.float64)
    values -= values.max()
    values -= math.log(np.exp(values).sum())
    return values


def likeliest(logprobs: npt.NDArray[np.float64], n: int) -> npt.NDArray[np.intp]:
    """The n tokens with the greatest values, greatest first, of equal ones the lower id first."""
    n = min(n, logprobs.size)
    least = np.partition(logprobs, logprobs.size - n)[logprobs.size - n]
    found = np.flatnonzero(logprobs >= least)
    return found[np.lexsort((found, -logprobs[found]))][:n]


def _recent(prompt: tuple[int, ...], options: SamplerOptions) -> tuple[int, ...]:
    """The end of the prompt, as far as samplers look back."""
    windows = (options.penalty_last_n, options.dry_penalty_last_n)
    return prompt if min(windows) < 0 else prompt[max(0, len(prompt) - max(windows)) :]
