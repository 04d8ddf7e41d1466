"""Servers as processes, and cheap clients for them: for `scripts/bench/serve.py` and `scripts/soak.py`."""
