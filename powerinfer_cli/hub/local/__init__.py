"""The models on this machine, by names: of folders, and of the hub's cache."""

from powerinfer_cli.hub.local.folders import MODELS, hub_cache, stored_models
from powerinfer_cli.hub.local.names import completions, find_stored, here, named_model
from powerinfer_cli.hub.local.stored import StoredModel

__all__ = ["MODELS", "StoredModel", "completions", "find_stored", "here", "hub_cache", "named_model", "stored_models"]
