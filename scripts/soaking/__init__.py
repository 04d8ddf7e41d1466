"""What the clients of `scripts/soak.py` do, and how they are judged."""
