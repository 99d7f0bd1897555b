"""The models. Each is a plain nn.Module with a frozen config and `loss(clip) -> (loss, logs)`."""
