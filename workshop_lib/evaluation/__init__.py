"""How good a model is, always beside a control."""
