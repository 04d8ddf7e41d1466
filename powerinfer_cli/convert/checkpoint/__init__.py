"""Checkpoints as others save them: a folder with config.json and weights. Nothing in them is executed."""

from powerinfer_cli.convert.checkpoint.config import Config
from powerinfer_cli.convert.checkpoint.folder import Checkpoint, open_checkpoint, read_json_file

__all__ = ["Checkpoint", "Config", "open_checkpoint", "read_json_file"]
