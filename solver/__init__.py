"""From a model to its placement: activation statistics, predictor training, the placement problem."""
