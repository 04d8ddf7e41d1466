"""Sparse FFNs: the rows of neurons that are needed, for one token, a few, and many."""
