"""The arithmetic of a layer. `reference` is the plain twin that every faster kernel is tested against."""
