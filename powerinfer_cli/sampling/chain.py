"""The sampler: options become a chain of steps, applied to each token's logits in the order that the user gave."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.sampling import truncation
from powerinfer_cli.sampling.candidates import Candidates, Floats, Ids, from_logits, softmax
from powerinfer_cli.sampling.draws import Draws, pick, resolve_seed
from powerinfer_cli.sampling.dry import Breakers, dry
from powerinfer_cli.sampling.history import History
from powerinfer_cli.sampling.options import SamplerOptions
from powerinfer_cli.sampling.penalties import bias, penalties
from powerinfer_cli.sampling.selection import AdaptiveSelector, MirostatSelector, PlainSelector, Selector
from powerinfer_cli.sampling.temperature import dynamic_temperature, temperature

_Step: TypeAlias = Callable[[Candidates], Candidates]


class Sampler:
    """Chooses tokens. The same seed, logits and accepted tokens give the same choices on every run."""

    def __init__(
        self, options: SamplerOptions, n_vocab: int, n_ctx: int, biases: tuple[Ids, Floats], breakers: Breakers
    ):
        """`n_ctx` is what -1 stands for in a look-back; `biases` are token ids (ascending) and what to add."""
        self.options = options
        self.seed = resolve_seed(options.seed)
        self._n_vocab = n_vocab
        self._breakers = breakers
        self._penalty_window = n_ctx if options.penalty_last_n < 0 else options.penalty_last_n
        self._dry_window = n_ctx if options.dry_penalty_last_n < 0 else options.dry_penalty_last_n
        self._history = History(max(self._penalty_window, self._dry_window))
        self._selector = _selector(options, n_vocab)
        self._biases = biases
        self._steps = self._chain()
        self._seed_draws()

    @property
    def biases(self) -> tuple[Ids, Floats]:
        """Ids of tokens, ascending, and what is added to their logits first of all."""
        return self._biases

    def sample(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> int:
        """The next token for `logits` [n_vocab], which are left as they are. Does not accept it.

        allowed: the tokens that it may be [n_vocab], at least one; they are all that the samplers see. Where biases
        rule out every one of these, the biases are not applied.
        Raises PowerInferError for logits of another shape, NaN or infinite ones, or when no token is possible.
        """
        before = self._shape(logits, allowed)
        after = self._selector.narrow(before)
        probs = softmax(after)
        index = 0
        if after.size > 1 or self._selector.draws_for_one:
            index = pick(probs, self._draws.double())
        self._selector.chose(before, after, index)
        return int(after.ids[index])

    def probabilities(self, logits: NDArray[np.float32]) -> tuple[Ids, Floats]:
        """Ids and probabilities, likeliest first, from which sample() would draw now. Changes no state."""
        with self._xtc_draws.rewound():
            after = self._selector.narrow(self._shape(logits))
        probs = softmax(after)
        order = np.lexsort((after.ids, -probs))
        order = order[probs[order] > 0.0]
        return after.ids[order], probs[order]

    def accept(self, token: int) -> None:
        """Note that `token` is now part of the text; the prompt's tokens count too."""
        self._remember(token)
        self._selector.accept(token)

    def replace_history(self, tokens: Sequence[int]) -> None:
        """The text is `tokens` now, say because a turn was taken back; draws and what was learned go on."""
        self._history.clear()
        for token in tokens[max(0, len(tokens) - self._history.window) :]:
            self._remember(token)

    def reset(self) -> None:
        """As new, with the same seed."""
        self._history.clear()
        self._selector.reset()
        self._seed_draws()

    def _remember(self, token: int) -> None:
        if not 0 <= token < self._n_vocab:
            raise PowerInferError(f"token {token} is outside the vocabulary (0 to {self._n_vocab - 1})")
        self._history.append(token)

    def _seed_draws(self) -> None:
        self._draws = Draws(self.seed)
        self._xtc_draws = Draws(self.seed)  # its own stream, so that XTC does not move the other draws

    def _shape(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> Candidates:
        """The candidates that the chain leaves of `logits`."""
        if logits.shape != (self._n_vocab,):
            raise PowerInferError(f"the sampler got logits of shape {logits.shape}, expected ({self._n_vocab},)")
        values = np.asarray(logits, np.float32)
        peak = values.max()
        if not np.isfinite(peak):
            found = "every logit is -inf" if peak == -np.inf else "the logits hold NaN or infinity"
            raise PowerInferError(f"the model gave no usable logits: {found}; the model file may be damaged")
        plain = from_logits(values)
        candidates = bias(plain, *self._biases)
        if allowed is not None:
            candidates = candidates.where(allowed)
            if candidates.logits.max(initial=-np.inf) == -np.inf:
                candidates = plain.where(allowed)
        with np.errstate(over="ignore"):
            for step in self._steps:
                candidates = step(candidates)
        return candidates

    def _chain(self) -> list[_Step]:
        o = self.options
        if o.mirostat:  # takes the place of every other sampler
            return [lambda c: temperature(c, o.temp)]
        steps: dict[str, _Step] = {
            "penalties": self._penalties,
            "dry": self._dry,
            "top_n_sigma": lambda c: truncation.top_n_sigma(c, o.top_n_sigma),
            "top_k": lambda c: truncation.top_k(c, o.top_k),
            "tfs_z": lambda c: truncation.tail_free(c, o.tfs_z, o.min_keep),
            "typ_p": lambda c: truncation.typical(c, o.typ_p, o.min_keep),
            "top_p": lambda c: truncation.top_p(c, o.top_p, o.min_keep),
            "min_p": lambda c: truncation.min_p(c, o.min_p, o.min_keep),
            "xtc": self._xtc,
            "temperature": lambda c: dynamic_temperature(c, o.temp, o.dynatemp_range, o.dynatemp_exponent),
        }
        # adaptive_p chooses the token, so it is the selector wherever it stands.
        return [steps[name] for name in o.samplers if name != "adaptive_p"]

    def _penalties(self, candidates: Candidates) -> Candidates:
        o = self.options
        recent = self._history.last(self._penalty_window)
        return penalties(candidates, recent, o.penalty_repeat, o.penalty_freq, o.penalty_present)

    def _dry(self, candidates: Candidates) -> Candidates:
        o = self.options
        recent = self._history.last(self._dry_window)
        return dry(
            candidates,
            recent,
            self._breakers,
            multiplier=o.dry_multiplier,
            base=o.dry_base,
            allowed_length=o.dry_allowed_length,
        )

    def _xtc(self, candidates: Candidates) -> Candidates:
        o = self.options
        if o.xtc_probability <= 0.0 or o.xtc_threshold > 0.5 or candidates.size < 2:
            return candidates
        if self._xtc_draws.single() > o.xtc_probability:
            return candidates
        return truncation.exclude_top_choices(candidates, o.xtc_threshold, o.min_keep)


def _selector(options: SamplerOptions, n_vocab: int) -> Selector:
    if options.mirostat:
        return MirostatSelector(options.mirostat, options.mirostat_tau, options.mirostat_eta, n_vocab)
    if "adaptive_p" in options.samplers:
        return AdaptiveSelector(options.adaptive_target, options.adaptive_decay)
    return PlainSelector()


def build_sampler(
    options: SamplerOptions,
    *,
    n_vocab: int,
    n_ctx_train: int,
    eog_ids: frozenset[int] = frozenset(),
    breakers: Callable[[tuple[str, ...]], Breakers] | None = None,
) -> Sampler:
    """A sampler for a vocabulary of `n_vocab` tokens.

    n_ctx_train: the context length that -1 stands for in --repeat-last-n and --dry-penalty-last-n.
    eog_ids: the tokens that --ignore-eos rules out.
    breakers: what DRY's sequence breakers are in this vocabulary (`TokenBreakers`); called only when DRY is on.
    Raises UsageError for a logit bias on a token that does not exist.
    """
    by_token = {int(token): value for token, value in options.logit_bias.items()}
    for token in by_token:
        if not 0 <= token < n_vocab:
            raise UsageError(f"--logit-bias: token {token} is outside the vocabulary (0 to {n_vocab - 1})")
    if options.ignore_eos:
        by_token.update(dict.fromkeys(eog_ids, -math.inf))
    tokens = sorted(by_token)
    biases = np.array(tokens, np.intp), np.array([by_token[token] for token in tokens], np.float32)

    found: Breakers = {}
    dry_is_on = options.dry_multiplier != 0.0 and options.dry_penalty_last_n != 0 and "dry" in options.samplers
    if dry_is_on and not options.mirostat and any(options.dry_sequence_breakers):
        if breakers is None:
            raise PowerInferError(
                "DRY's sequence breakers need the model's vocabulary; use --dry-sequence-breaker none"
            )
        found = breakers(options.dry_sequence_breakers)
    return Sampler(options, n_vocab, n_ctx_train, biases, found)
