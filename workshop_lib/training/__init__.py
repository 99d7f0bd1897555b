"""One trainer for every model that has `loss(clip)`."""
