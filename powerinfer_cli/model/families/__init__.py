"""One file a family of architectures: which keys and tensors make which blocks. `model.registry` has them all."""
