"""Profiling, predictor training and neuron placement."""
