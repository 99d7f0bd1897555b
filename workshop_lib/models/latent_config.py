"""How a latent action model is built and trained: what its recipes may say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.codebook import VQConfig
from workshop_lib.nn.quantizers import FSQConfig


@dataclass(frozen=True)
class ConvEncoderConfig:
    """Convolutions over a stack of frames: what learns quickly on a CPU.

    view: pixels across the middle of the frames, all that is read; 0 for all of them. In CoinRun
        the camera holds the player in the middle.
    width: channels at a quarter of the size, a multiple of 4; twice as many at an eighth.
    depth: residual blocks there, after a single one at a quarter of the size.
    """

    view: int = 0
    width: int = 32
    depth: int = 2
    kind: Literal["conv"] = "conv"


@dataclass(frozen=True)
class TransformerEncoderConfig:
    """A causal space-time transformer (ST-ViViT: Bruce et al. 2024).

    patch: pixels across a patch.
    dim, depth, heads: width D, blocks and attention heads.
    num_tokens: 0 reads pixels; else the frames' tokens, of so many codes.
    grid: (h, w), tokens down and across, where tokens are read.
    """

    patch: int = 8
    dim: int = 128
    depth: int = 4
    heads: int = 4
    num_tokens: int = 0
    grid: tuple[int, int] = (8, 8)
    kind: Literal["transformer"] = "transformer"


@dataclass(frozen=True)
class UNetDecoderConfig:
    """The U-Net of nn/frame_unet.py, which sees `history` frames and says how they move.

    patch, width, depth, middle: as there; patch in pixels of the frames as the decoder sees them.
    """

    patch: int = 4
    width: int = 32
    depth: int = 2
    middle: int = 4
    kind: Literal["unet"] = "unet"


@dataclass(frozen=True)
class TransformerDecoderConfig:
    """A causal space-time transformer over patches, as Genie's; dim, depth, heads as above."""

    patch: int = 8
    dim: int = 128
    depth: int = 4
    heads: int = 4
    kind: Literal["transformer"] = "transformer"


@dataclass(frozen=True)
class LatentActionConfig:
    """encoder, decoder: as in models/latent_coders.py.
    quantizer: vq or fsq; its codes are the latent actions.
    size: height and width of the frames, in pixels.
    history: frames up to frame t that encoder and decoder look back on.
    stride: code t helps to draw frame t + s, for a random s from 1 to stride.
    scale: the decoder sees and draws frames so many times smaller, and learns faster.
    transitions: how many of each clip a step is trained on, drawn at random; 0 for all.
    loss: "mse", or "log", the logarithm of each prediction's error: then frames in which little
        changes count as much as jumps.
    portrait: pixels across the middle of a frame, where the player is, that are drawn from all but
        where he looks, and code t; an even number, 0 for no such thing. portrait_reach: of any of
        so many frames after frame t. portrait_weight: of their mean squared error.
    soft, soft_steps, spread, temperature: see models/latent_code.py, ActionCode.
    drop: share of transitions for which the decoder gets no code, in training: so it learns what
        the past alone says, and the code need not repeat it.
    from_first: the decoder sees a clip's first frame only and then its own predictions, so that
        everything else must come through the codes.
    entropy: weight of the entropy of the batch's mean soft assignment: all codes should be used.
    labels: share of transitions whose true action is known. label_weight: of the cross-entropy
        that pulls these to the code of their action.
    action_codes: the code of each of the game's actions, for labels.
    """

    encoder: ConvEncoderConfig | TransformerEncoderConfig = field(default_factory=ConvEncoderConfig)
    decoder: UNetDecoderConfig | TransformerDecoderConfig = field(default_factory=UNetDecoderConfig)
    quantizer: VQConfig | FSQConfig = field(default_factory=lambda: FSQConfig((2, 2, 2)))
    size: int = 64
    history: int = 4
    stride: int = 1
    scale: int = 1
    transitions: int = 0
    loss: Literal["mse", "log"] = "mse"
    portrait: int = 0
    portrait_reach: int = 4
    portrait_weight: float = 2.0
    soft: float = 0.5
    soft_steps: int = 0
    spread: bool = True
    temperature: float = 0.25
    drop: float = 0.0
    from_first: bool = False
    entropy: float = 0.0
    labels: float = 0.0
    label_weight: float = 0.1
    action_codes: tuple[int, ...] = (0, 0, 3, 5, 5, 2, 1, 1, 4, 5, 5, 5, 5, 5, 5)

    def __post_init__(self) -> None:
        for name in ("size", "history", "stride", "scale", "portrait_reach"):
            if getattr(self, name) < 1:
                raise WorkshopError(f"model.{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("soft", "drop", "labels"):
            if not 0 <= getattr(self, name) <= 1:
                raise WorkshopError(f"model.{name} must be in [0, 1], got {getattr(self, name)}")
        if (
            min(self.transitions, self.entropy, self.soft_steps, self.portrait) < 0
            or self.temperature <= 0
        ):
            raise WorkshopError(
                "model.transitions, entropy, soft_steps and portrait must not be negative, and "
                "temperature must be above 0"
            )
        if self.size % self.scale:
            raise WorkshopError(f"model.scale {self.scale} must divide model.size {self.size}")
        if self.from_first and self.stride > 1:
            raise WorkshopError("model.from_first draws frame by frame: it needs model.stride 1")
        whole = self.from_first or isinstance(self.decoder, TransformerDecoderConfig)
        if whole and self.transitions:
            raise WorkshopError(
                "model.transitions: from_first and decoder.kind transformer take all of them (0)"
            )
        if isinstance(self.quantizer, VQConfig) and self.quantizer.cosine:
            raise WorkshopError("model.quantizer.cosine: latent actions use plain distances")
