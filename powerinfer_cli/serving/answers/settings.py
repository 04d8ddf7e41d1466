"""`generation_settings`: what a text was made with, under llama-server's names."""

import math
from typing import Any

from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.serving.schemas.sampling import SamplingFields
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import CompletionTask

__all__ = ["sampler_body", "settings_body"]


def sampler_body(sampler: SamplerOptions, seed: int) -> dict[str, Any]:
    """seed: the one that draws were made from."""
    return {
        "seed": seed,
        "temperature": sampler.temp,
        "dynatemp_range": sampler.dynatemp_range,
        "dynatemp_exponent": sampler.dynatemp_exponent,
        "top_k": sampler.top_k,
        "top_p": sampler.top_p,
        "min_p": sampler.min_p,
        "top_n_sigma": sampler.top_n_sigma,
        "xtc_probability": sampler.xtc_probability,
        "xtc_threshold": sampler.xtc_threshold,
        "typical_p": sampler.typ_p,
        "tfs_z": sampler.tfs_z,
        "repeat_last_n": sampler.penalty_last_n,
        "repeat_penalty": sampler.penalty_repeat,
        "presence_penalty": sampler.penalty_present,
        "frequency_penalty": sampler.penalty_freq,
        "dry_multiplier": sampler.dry_multiplier,
        "dry_base": sampler.dry_base,
        "dry_allowed_length": sampler.dry_allowed_length,
        "dry_penalty_last_n": sampler.dry_penalty_last_n,
        "dry_sequence_breakers": list(sampler.dry_sequence_breakers),
        "mirostat": sampler.mirostat,
        "mirostat_tau": sampler.mirostat_tau,
        "mirostat_eta": sampler.mirostat_eta,
        "adaptive_target": sampler.adaptive_target,
        "adaptive_decay": sampler.adaptive_decay,
        "ignore_eos": sampler.ignore_eos,
        "min_keep": sampler.min_keep,
        "samplers": list(sampler.samplers),
    }


def settings_body(task: CompletionTask, fields: SamplingFields, service: Service, seed: int) -> dict[str, Any]:
    """Of one task of a request. Tokens that `ignore_eos` forbids are told among the biases, as llama-server does."""
    sampler = task.sampler
    biases = list(sampler.logit_bias.items())
    if sampler.ignore_eos:
        biases += [(token, -math.inf) for token in sorted(service.model.tokenizer.eog_ids)]
    return {
        **sampler_body(sampler, seed),
        "stop": list(task.stop),
        "max_tokens": task.n_predict,
        "n_predict": task.n_predict,
        "n_keep": task.n_keep,
        "n_discard": task.n_discard,
        "stream": bool(fields.stream),
        "logit_bias": [{"bias": bias if math.isfinite(bias) else None, "token": token} for token, bias in biases],
        "n_probs": task.n_probs,
        "grammar": fields.grammar or "",
        "grammar_lazy": False,
        "grammar_triggers": [],
        "preserved_tokens": sorted(task.preserved),
        "chat_format": "Content-only",
        "reasoning_format": service.options.reasoning_format,
        "reasoning_in_content": False,
        "generation_prompt": "",
        "speculative.types": service.options.spec_type,
        "timings_per_token": bool(fields.timings_per_token),
        "post_sampling_probs": task.post_sampling_probs,
        "backend_sampling": False,
        "lora": [],
    }
