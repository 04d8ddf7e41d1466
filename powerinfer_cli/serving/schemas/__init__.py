"""Requests: what each endpoint takes, and what the engine's thread is asked for."""

from .fields import RequestFields
from .sampling import SamplingFields, Serving, StreamOptions

__all__ = ["RequestFields", "SamplingFields", "Serving", "StreamOptions"]
