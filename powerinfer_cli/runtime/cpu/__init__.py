"""The CPU executor: a model's operations as programs for a team of threads."""
