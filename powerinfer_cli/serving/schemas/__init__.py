"""Requests: what each endpoint takes, and what the engine's thread is asked for."""

from .fields import RequestFields
from .sampling import SamplingFields, StreamOptions

__all__ = ["RequestFields", "SamplingFields", "StreamOptions"]
