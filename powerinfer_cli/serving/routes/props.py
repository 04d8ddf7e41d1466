"""What the server is and what requests get by default."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from powerinfer_cli.serving.answers import SYSTEM_FINGERPRINT
from powerinfer_cli.serving.answers.settings import sampler_body
from powerinfer_cli.serving.chat.capabilities import capabilities_of
from powerinfer_cli.serving.chat.tool_styles import GENERIC
from powerinfer_cli.serving.errors import not_supported
from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.service import Service
from powerinfer_cli.text import ChatTemplate

__all__ = ["router", "template_caps"]

router = APIRouter(tags=["server"])

RANDOM_SEED = 2**32 - 1


@router.get("/props")
async def props(request: Request) -> Response:
    """The defaults of requests, the model, its chat template."""
    service: Service = request.app.state.service
    model, options = service.model, service.options
    tokenizer = model.tokenizer
    return Answer(
        {
            "default_generation_settings": {"params": _defaults(options), "n_ctx": model.n_ctx_slot},
            "total_slots": model.n_slots,
            "model_alias": model.name,
            "model_ftype": model.file_type,
            "model_path": str(model.path),
            "modalities": {"vision": False, "video": False, "audio": False},
            "endpoint_slots": options.slots,
            "endpoint_props": options.props,
            "endpoint_metrics": options.metrics,
            "ui": options.ui,
            "ui_settings": {},
            "chat_template": model.template.source,
            "chat_template_caps": template_caps(model.template),
            "bos_token": tokenizer.text_of(tokenizer.bos_id),
            "eos_token": tokenizer.text_of(tokenizer.eos_id),
            "build_info": SYSTEM_FINGERPRINT,
            "is_sleeping": service.state == "sleeping",
            "cors_proxy_enabled": False,
        }
    )


@router.post("/props")
async def change(request: Request) -> Response:
    """llama-server's, which can change nothing either."""
    service: Service = request.app.state.service
    if not service.options.props:
        raise not_supported("This server does not support changing global properties. Start it with `--props`")
    return Answer({"success": True})


def _defaults(options: ServerOptions) -> dict[str, Any]:
    sampler = options.sampler
    return {
        **sampler_body(sampler, sampler.seed if sampler.seed >= 0 else RANDOM_SEED),
        "stop": [],
        "max_tokens": options.n_predict,
        "n_predict": options.n_predict,
        "n_keep": 0,
        "n_discard": 0,
        "stream": False,
        "n_probs": 0,
        "chat_format": "Content-only",
        "reasoning_format": options.reasoning_format,
        "reasoning_in_content": False,
        "generation_prompt": "",
        "timings_per_token": False,
        "post_sampling_probs": False,
        "backend_sampling": False,
        "speculative.types": options.spec_type,
        "lora": [],
    }


def template_caps(template: ChatTemplate) -> dict[str, bool]:
    """What the template makes use of, by llama-server's names."""
    able = capabilities_of(template)
    return {
        "supports_object_arguments": able.objects,
        "supports_parallel_tool_calls": able.parallel,
        "supports_preserve_reasoning": "reasoning_content" in template.source,
        "supports_reasoning_effort": "reasoning_effort" in template.source,
        "supports_string_content": able.forms.texts,
        "supports_system_role": able.forms.system,
        "supports_tool_calls": able.calls,
        "supports_tools": able.style is not GENERIC,
        "supports_typed_content": able.forms.parts,
    }
