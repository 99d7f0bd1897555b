"""Trained models by name: `load_pretrained("tokenizer-tiny")`.

registry/ has one JSON file for each: what it is, how it was made, how good it is, and the SHA-256
that its file must have. The file comes from data/pretrained of the checkout, from the user's
cache, or from a mirror.
"""

from workshop_lib.pretrained.finding import find_file, find_needed, load_pretrained

__all__ = ["find_file", "find_needed", "load_pretrained"]
