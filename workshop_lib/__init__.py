"""World models on CoinRun: data, models, training, worlds to play, and how to measure them.

Importing this package is cheap: torch, lightning and matplotlib are loaded by the parts that
need them.
"""

__version__ = "0.1.0"
