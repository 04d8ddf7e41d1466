"""Mixtures of experts: who is chosen, and their products, for few tokens and for many."""
