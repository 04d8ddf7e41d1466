"""The one model there is, as OpenAI's and Ollama's clients ask for it."""

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.service import ServedModel, Service

__all__ = ["router"]

router = APIRouter(tags=["server"])

VOCABULARIES = {"llama": 1, "gpt2": 2, "bert": 3, "t5": 4, "rwkv": 5}  # llama.cpp's numbers


@router.get("/v1/models")
@router.get("/models", include_in_schema=False)
async def models(request: Request) -> Response:
    """A list of one."""
    service: Service = request.app.state.service
    model = service.model
    return Answer({"models": [_as_ollama(model)], "object": "list", "data": [_as_openai(model)]})


def _as_openai(model: ServedModel) -> dict[str, Any]:
    config = model.config
    return {
        "id": model.name,
        "aliases": list(model.names),
        "tags": list(model.tags),
        "object": "model",
        "created": int(time.time()),
        "owned_by": "llamacpp",  # by which some clients know what else they may ask for
        "meta": {
            "vocab_type": VOCABULARIES.get(str(model.metadata.get("tokenizer.ggml.model")), 0),
            "n_vocab": config.n_vocab,
            "n_ctx": model.n_ctx_slot,
            "n_ctx_train": config.n_ctx_train,
            "n_embd": config.n_embd,
            "n_params": model.n_params,
            "size": model.size,
            "ftype": model.file_type,
        },
    }


def _as_ollama(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": "",
        "size": "",
        "digest": "",
        "type": "model",
        "description": "",
        "tags": [""],
        "capabilities": ["completion"],
        "parameters": "",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "",
            "families": [""],
            "parameter_size": "",
            "quantization_level": "",
        },
    }
