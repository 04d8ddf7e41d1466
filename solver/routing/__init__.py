"""Mixtures of experts: which experts a text's tokens need, and what placing them by that can gain."""

from solver.routing.files import expert_routes, expert_statistics

__all__ = ["expert_routes", "expert_statistics"]
