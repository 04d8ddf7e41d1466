"""What converts checkpoints, a file a family as in `model/families`: names, moves of numbers, keys. Data only."""
