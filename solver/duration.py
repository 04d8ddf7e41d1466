"""How long the stages behind a verdict will take."""

from solver.held_out_stages import DENSE_QUALITY, METERED, SPARSE_QUALITY
from solver.predictor import IMPROVING, MAKING
from solver.predictor.buffer import COLLECTING
from solver.routing.profile import PROFILE
from solver.verdict import WorkRates

__all__ = ["seconds_to_come"]


def seconds_to_come(
    rates: WorkRates, tokens: int, held: int, budget: float, *, searched: bool = True
) -> dict[str, float]:
    """Of what follows a verdict, by the words of its progress.

    tokens: of the text, of which `held` are held out. budget: seconds for gradient steps. searched: so is the density
    of a model without zeros.
    """
    rate, trained = rates.reading, tokens - held
    training = rates.training_on(max(trained, rates.tokens))
    profile = {PROFILE: tokens * rate}
    made = {
        COLLECTING: trained * rate if rates.graded else 0.0,  # else the profile's pass has done it
        MAKING: training,
        IMPROVING: min(budget, training),
        DENSE_QUALITY: held * rate,
        SPARSE_QUALITY: held * rate,
    }
    if rates.graded:  # what counts as active is known once predictors are good enough
        return {"measuring densities": 6 * METERED * rate if searched else 0.0, **made, **profile}
    return {**profile, **made}
