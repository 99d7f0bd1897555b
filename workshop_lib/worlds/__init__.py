"""Things that can be played: the real game, and every world that dreams it."""
