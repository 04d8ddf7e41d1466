"""What clients may ask for: one router a file."""

from fastapi import APIRouter

from powerinfer_cli.serving.routes import completion, embeddings, health, infill, models, neurons, tokens

__all__ = ["ROUTERS"]

ROUTERS: tuple[APIRouter, ...] = (
    health.router,
    models.router,
    tokens.router,
    completion.router,
    infill.router,
    embeddings.router,
    neurons.router,
)
