"""Checkpoints of models that make vectors of texts, or rank them, a file a family as in `model/families/encoders`."""
