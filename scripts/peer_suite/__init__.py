"""llama.cpp's own server tests, run against this project's server: the parts of `scripts/peer_tests.py`."""
