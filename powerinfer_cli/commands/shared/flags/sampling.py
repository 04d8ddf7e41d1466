"""How the next token is chosen, with llama.cpp's names, meanings and defaults."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from powerinfer_cli.sampling.options import (
    SamplerOptions,
    parse_dry_breakers,
    parse_logit_bias,
    parse_sampler_sequence,
    parse_samplers,
)

__all__ = ["SamplingFlags"]

_D = SamplerOptions()


def _sampling(*names: str, help: str, metavar: str | None = None) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Sampling")


@dataclass(frozen=True)
class SamplingFlags:
    """How the next token is chosen."""

    seed: Annotated[int, _sampling("-s", "--seed", metavar="N", help="Random seed; -1: a new one each run.")] = -1
    temp: Annotated[float, _sampling("--temp", "--temperature", metavar="N", help="Temperature; 0: greedy.")] = _D.temp
    top_k: Annotated[int, _sampling("--top-k", metavar="N", help="Keep the N likeliest; 0: off.")] = _D.top_k
    top_p: Annotated[float, _sampling("--top-p", metavar="N", help="Nucleus sampling; 1: off.")] = _D.top_p
    min_p: Annotated[
        float, _sampling("--min-p", metavar="N", help="Least share of the likeliest's probability; 0: off.")
    ] = _D.min_p
    typ_p: Annotated[
        float, _sampling("--typical", "--typical-p", metavar="N", help="Locally typical sampling; 1: off.")
    ] = _D.typ_p
    tfs_z: Annotated[float, _sampling("--tfs", metavar="N", help="Tail-free sampling; 1: off.")] = _D.tfs_z
    top_n_sigma: Annotated[
        float, _sampling("--top-nsigma", "--top-n-sigma", metavar="N", help="Top-n-sigma sampling; -1: off.")
    ] = _D.top_n_sigma
    xtc_probability: Annotated[float, _sampling("--xtc-probability", metavar="N", help="XTC probability; 0: off.")] = (
        _D.xtc_probability
    )
    xtc_threshold: Annotated[float, _sampling("--xtc-threshold", metavar="N", help="XTC threshold; over 0.5: off.")] = (
        _D.xtc_threshold
    )
    dynatemp_range: Annotated[
        float, _sampling("--dynatemp-range", metavar="N", help="Dynamic temperature: range; 0: off.")
    ] = _D.dynatemp_range
    dynatemp_exponent: Annotated[
        float, _sampling("--dynatemp-exp", metavar="N", help="Dynamic temperature: exponent.")
    ] = _D.dynatemp_exponent
    penalty_last_n: Annotated[
        int, _sampling("--repeat-last-n", metavar="N", help="Tokens that penalties look back; 0: off, -1: all.")
    ] = _D.penalty_last_n
    penalty_repeat: Annotated[float, _sampling("--repeat-penalty", metavar="N", help="Repetition penalty; 1: off.")] = (
        _D.penalty_repeat
    )
    penalty_present: Annotated[
        float, _sampling("--presence-penalty", metavar="N", help="Presence penalty; 0: off.")
    ] = _D.penalty_present
    penalty_freq: Annotated[float, _sampling("--frequency-penalty", metavar="N", help="Frequency penalty; 0: off.")] = (
        _D.penalty_freq
    )
    dry_multiplier: Annotated[
        float, _sampling("--dry-multiplier", metavar="N", help="DRY penalty's multiplier; 0: off.")
    ] = _D.dry_multiplier
    dry_base: Annotated[float, _sampling("--dry-base", metavar="N", help="DRY penalty's base.")] = _D.dry_base
    dry_allowed_length: Annotated[
        int, _sampling("--dry-allowed-length", metavar="N", help="Repeats that DRY lets pass.")
    ] = _D.dry_allowed_length
    dry_penalty_last_n: Annotated[
        int, _sampling("--dry-penalty-last-n", metavar="N", help="Tokens that DRY looks back; 0: off, -1: all.")
    ] = _D.dry_penalty_last_n
    dry_sequence_breaker: Annotated[
        list[str] | None,
        _sampling("--dry-sequence-breaker", metavar="TEXT", help='Replaces the breakers; repeatable; "none".'),
    ] = None
    adaptive_target: Annotated[
        float, _sampling("--adaptive-target", metavar="N", help="Adaptive-p: aim at this probability; negative: off.")
    ] = _D.adaptive_target
    adaptive_decay: Annotated[
        float, _sampling("--adaptive-decay", metavar="N", help="Adaptive-p: how slowly it adapts, 0 to 0.99.")
    ] = _D.adaptive_decay
    mirostat: Annotated[int, _sampling("--mirostat", metavar="N", help="Mirostat 1 or 2; 0: off.")] = _D.mirostat
    mirostat_tau: Annotated[float, _sampling("--mirostat-ent", metavar="N", help="Mirostat's target entropy.")] = (
        _D.mirostat_tau
    )
    mirostat_eta: Annotated[float, _sampling("--mirostat-lr", metavar="N", help="Mirostat's learning rate.")] = (
        _D.mirostat_eta
    )
    logit_bias: Annotated[
        list[str], _sampling("-l", "--logit-bias", metavar="ID+-BIAS", help="Bias of a token, as 15043+1; repeatable.")
    ] = field(default_factory=list)
    ignore_eos: Annotated[bool, _sampling("--ignore-eos", help="Never end the text by itself.")] = False
    samplers: Annotated[
        str | None, _sampling("--samplers", metavar="NAMES", help='Samplers in order, as "top_k;top_p;temperature".')
    ] = None
    sampling_seq: Annotated[
        str | None, _sampling("--sampling-seq", "--sampler-seq", metavar="LETTERS", help="The same by letters, as kpt.")
    ] = None

    def options(self, escape: Any = str) -> SamplerOptions:
        """As the sampler takes them; `escape` is applied to sequence breakers. Raises UsageError."""
        values = {name: value for name, value in vars(self).items() if name in vars(_D)}
        values["logit_bias"] = parse_logit_bias(self.logit_bias)
        if self.dry_sequence_breaker is not None:
            values["dry_sequence_breakers"] = parse_dry_breakers([escape(text) for text in self.dry_sequence_breaker])
        values["samplers"] = _D.samplers
        if self.samplers is not None:
            values["samplers"] = parse_samplers(self.samplers)
        if self.sampling_seq is not None:
            values["samplers"] = parse_sampler_sequence(self.sampling_seq)
        return SamplerOptions(**values)
