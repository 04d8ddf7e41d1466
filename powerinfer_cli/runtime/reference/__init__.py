"""The reference executor: the plain twin of the fast ones, in torch."""
