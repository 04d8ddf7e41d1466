"""Kernels of layers that keep a state of a sequence. They go through a segment's tokens one by one, so that no result
depends on where a text is cut.
"""
