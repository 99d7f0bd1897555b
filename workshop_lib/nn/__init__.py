"""Building blocks that know nothing of games, data or training: tensors in, tensors out."""
