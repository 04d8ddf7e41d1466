"""Checkpoints to GGUF files, and GGUF files to smaller ones."""
