"""The game, recorded episodes on disk, and clips in batches. Knows no model."""
