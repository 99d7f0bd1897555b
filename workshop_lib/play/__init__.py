"""Playing inside a world: sessions, the player in a notebook, the same player in a browser."""
