"""Parts of layers that are more than a matrix or two: read of a file by its keys, for families to ask for."""
