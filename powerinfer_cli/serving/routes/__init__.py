"""What clients may ask for: one router a file."""

from fastapi import APIRouter

from powerinfer_cli.serving.routes import (
    anthropic,
    chat,
    completion,
    embeddings,
    health,
    infill,
    metrics,
    models,
    neurons,
    props,
    rerank,
    responses,
    slots,
    tokens,
    unsupported,
)

__all__ = ["ROUTERS"]

ROUTERS: tuple[APIRouter, ...] = (
    health.router,
    models.router,
    props.router,
    slots.router,
    metrics.router,
    tokens.router,
    completion.router,
    chat.router,
    anthropic.router,
    responses.router,
    infill.router,
    embeddings.router,
    rerank.router,
    neurons.router,
    unsupported.router,
)
