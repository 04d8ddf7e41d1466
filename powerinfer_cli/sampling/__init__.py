"""From logits to the next token, with llama.cpp's samplers, order and defaults. NumPy only."""

from powerinfer_cli.sampling.chain import Sampler, build_sampler
from powerinfer_cli.sampling.dry import Breakers, TokenBreakers
from powerinfer_cli.sampling.options import (
    DEFAULT_SAMPLERS,
    SAMPLER_LETTERS,
    SamplerOptions,
    parse_dry_breakers,
    parse_logit_bias,
    parse_sampler_sequence,
    parse_samplers,
)

__all__ = [
    "DEFAULT_SAMPLERS",
    "SAMPLER_LETTERS",
    "Breakers",
    "Sampler",
    "SamplerOptions",
    "TokenBreakers",
    "build_sampler",
    "parse_dry_breakers",
    "parse_logit_bias",
    "parse_sampler_sequence",
    "parse_samplers",
]
