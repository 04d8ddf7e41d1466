"""The storyteller again, with experts for neurons: qwen3moe's layers, the bundled model's corpus and vocabulary."""
