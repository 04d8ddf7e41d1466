"""The hybrid executor: GPUs and the CPU together, as a plan divides the model."""
