"""Synthetic sparse models of any shape, and their dense twins: for timings, memory and numerics, not for text."""
