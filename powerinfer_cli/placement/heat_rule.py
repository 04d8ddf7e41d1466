"""By which rule what is hot changes while a model runs."""

from dataclasses import dataclass

__all__ = ["HEAT", "LRU", "MOST", "RULES", "HeatRule"]

MOST = 1 << 30


@dataclass(frozen=True)
class HeatRule:
    """half_life: tokens until a use counts half. margin: uses by which a cold group must be hotter than a hot one to
    replace it. uploads: at most so many a layer and step. neurons: of a group, where groups are no experts.

    Of half_life 1 and no margin, a group's last use outweighs all before it: the least recently used one goes, and of
    those used last by the same token the one that was used less before.
    Raises ValueError: a half-life below 1, a negative margin, no upload.
    """

    half_life: int = 128
    margin: float = 1.0
    uploads: int = 4
    neurons: int = 64

    def __post_init__(self) -> None:
        if self.half_life < 1 or min(self.uploads, self.neurons) < 1 or not self.margin >= 0:
            raise ValueError(f"no rule of heat: {self}")


HEAT = HeatRule()
RULES = (HeatRule(2, margin=0), HeatRule(8, margin=0.5), HeatRule(32), HEAT, HeatRule(512))
"""From nearly the least recently used on; where the next token wants what the last one did, short lives hit more."""
LRU = HeatRule(half_life=1, margin=0, uploads=MOST)
