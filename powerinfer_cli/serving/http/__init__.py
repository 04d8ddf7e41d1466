"""What requests pass on their way to a handler, and answers on their way back: limits, keys, failures, logs."""

from powerinfer_cli.serving.http.bodies import Answer

__all__ = ["Answer"]
