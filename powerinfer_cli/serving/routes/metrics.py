"""What Prometheus reads."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from powerinfer_cli.serving.errors import not_supported
from powerinfer_cli.serving.http.rates import Rates
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.slots.counters import CachedTexts, Counters

__all__ = ["metrics_text", "router"]

router = APIRouter(tags=["server"])

COUNTER, GAUGE = "counter", "gauge"
Line = tuple[str, str, str, float | None]


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """In Prometheus's text format; averages are of the time since they were last asked for."""
    service: Service = request.app.state.service
    if not service.options.metrics:
        raise not_supported("This server does not support metrics endpoint. Start it with `--metrics`")
    counters, memory = service.counted()
    return Response(
        metrics_text(counters, service.rates, service.started, memory),
        media_type="text/plain; version=0.0.4",
        headers={"Process-Start-Time-Unix": str(int(service.started))},
    )


def metrics_text(counters: Counters, rates: Rates, started: float, memory: int | None) -> str:
    """llama-server's metrics and ours; what is not known is left out."""
    prompt, predicted = rates.since_last(counters)
    lines: list[Line] = [
        *_totals(counters),
        (GAUGE, "llamacpp:prompt_tokens_seconds", "Average prompt throughput in tokens/s", prompt),
        (GAUGE, "llamacpp:predicted_tokens_seconds", "Average generation throughput in tokens/s", predicted),
        *_now(counters),
        *_tiers(counters),
        *_cached(counters.cached),
        (GAUGE, "process_start_time_seconds", "When the server began, in seconds since 1970", started),
        (GAUGE, "process_resident_memory_bytes", "Main memory in use, in whole MiB", memory and memory >> 20 << 20),
    ]
    return "".join(
        f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n{name} {value:.10g}\n"
        for kind, name, meaning, value in lines
        if value is not None
    )


def _totals(counters: Counters) -> list[Line]:
    named = (
        ("prompt_tokens_total", "Prompt tokens that were read, without cached ones", counters.prompt_tokens),
        ("prompt_tokens_cached_total", "Prompt tokens that were there already", counters.prompt_tokens_cached),
        ("prompt_seconds_total", "Time spent on prompts", counters.prompt_seconds),
        ("tokens_predicted_total", "Tokens that were written", counters.predicted_tokens),
        ("tokens_predicted_seconds_total", "Time spent on writing", counters.predicted_seconds),
        ("n_decode_total", "Steps of the engine", counters.n_decode),
        ("n_tokens_max", "The longest text so far, prompt and all", counters.n_tokens_max),
        ("spec_decode_num_draft_tokens_total", "Tokens drafted", counters.draft_tokens),
        (
            "spec_decode_num_accepted_tokens_total",
            "Drafted tokens that were accepted",
            counters.draft_tokens_accepted,
        ),
        ("spec_decode_num_drafts_total", "Drafts", counters.drafts),
    )
    return [(COUNTER, f"llamacpp:{name}", meaning, value) for name, meaning, value in named]


def _now(counters: Counters) -> list[Line]:
    return [
        (GAUGE, "llamacpp:requests_processing", "Requests in slots", counters.requests_processing),
        (GAUGE, "llamacpp:requests_deferred", "Requests that wait for a slot", counters.requests_deferred),
        (GAUGE, "llamacpp:n_busy_slots_per_decode", "Slots that a step serves", counters.busy_slots_per_decode),
        (GAUGE, "llamacpp:kv_cache_usage_ratio", "Share of the KV cache in use, 0 to 1", counters.kv_usage),
        (GAUGE, "llamacpp:kv_cache_tokens", "Tokens in the KV cache", counters.kv_tokens),
        (GAUGE, "powerinfer:active_neuron_share", "Neurons that fired, of all in FFNs", counters.active_share),
        (GAUGE, "powerinfer:predicted_neuron_share", "Neurons that were predicted to", counters.predicted_share),
        (GAUGE, "powerinfer:hot_neuron_share", "Of those that fired, computed on GPUs", counters.hot_share),
        (GAUGE, "powerinfer:expert_hit_rate", "Experts on GPUs, of those chosen", counters.chosen_hot_share),
        (COUNTER, "powerinfer:uploads_total", "Experts, or groups of neurons, brought to GPUs", counters.uploads),
        (COUNTER, "powerinfer:uploaded_bytes_total", "Bytes of these", counters.moved_bytes),
        (GAUGE, "powerinfer:kv_cache_gpu_bytes", "The KV cache on GPUs", counters.kv_gpu_bytes),
        (
            GAUGE,
            "powerinfer:kv_cache_overflow_bytes",
            "The KV cache of layers on GPUs that is in main memory",
            counters.kv_overflow_bytes,
        ),
    ]


def _cached(texts: CachedTexts | None) -> list[Line]:
    if texts is None:
        return []
    return [
        (GAUGE, "powerinfer:prompt_cache_bytes", "Texts that have left their slot", texts.n_bytes),
        (GAUGE, "powerinfer:prompt_cache_texts", "How many these are", texts.n_texts),
        (COUNTER, "powerinfer:prompt_cache_kept_total", "Texts that left their slot, and were kept", texts.kept),
        (COUNTER, "powerinfer:prompt_cache_restored_total", "Of these, put back into a slot", texts.restored),
        (COUNTER, "powerinfer:prompt_cache_dropped_total", "Of these, that made room for others", texts.dropped),
    ]


def _tiers(counters: Counters) -> list[Line]:
    named = (
        ("compute_seconds_total", "Time the engine has computed", counters.compute_seconds),
        ("cold_tier_seconds_total", "Of it, the CPU's on cold neurons of layers on GPUs", counters.cold_seconds),
        ("cold_tier_wait_seconds_total", "Of it, the CPU's waiting for their input", counters.cold_wait_seconds),
        (
            "outside_cold_tier_seconds_total",
            "Of it, all but the cold tier's: waiting for GPUs with the hot tier, and layers on the CPU. Hot neurons "
            "that are computed while the CPU computes cold ones take no time of their own, and none is told",
            counters.outside_cold_seconds,
        ),
    )
    return [(COUNTER, f"powerinfer:{name}", meaning, value) for name, meaning, value in named]
