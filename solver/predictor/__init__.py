"""Predictors: what they learn from, how they are trained, at which rank and density, and what they cost."""

from solver.predictor.buffer import Buffer, collect
from solver.predictor.density import STEPS, DensityChoice, DensityMeter, find_density
from solver.predictor.improving import Offer
from solver.predictor.layer import (
    PredictorOptions,
    PredictorReport,
    TrainedPredictor,
    measure,
    predict,
    train_predictor,
)
from solver.predictor.quality import KeptLosses, Quality, compare, score
from solver.predictor.ranks import RankOptions, ReadingSpeed
from solver.predictor.training import IMPROVING, MAKING, LayersMade, TrainOptions, layer_costs, train_layers

__all__ = [
    "IMPROVING",
    "MAKING",
    "STEPS",
    "Buffer",
    "DensityChoice",
    "DensityMeter",
    "KeptLosses",
    "LayersMade",
    "Offer",
    "PredictorOptions",
    "PredictorReport",
    "Quality",
    "RankOptions",
    "ReadingSpeed",
    "TrainOptions",
    "TrainedPredictor",
    "collect",
    "compare",
    "find_density",
    "layer_costs",
    "measure",
    "predict",
    "score",
    "train_layers",
    "train_predictor",
]
