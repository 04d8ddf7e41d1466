"""PowerInfer: large language models on one small GPU, or none, by activation locality."""

__version__ = "0.1.0"
