"""Models that make vectors of texts, or rank them: their tokens see both sides. Each file: one family."""
