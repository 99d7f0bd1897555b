"""What a tokenizer keeps of held-out frames: `workshop evaluate tokenizer`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from workshop_lib.data.clip import frames_to_video
from workshop_lib.data.clips import ClipConfig, fixed_clips
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.metrics import Score, psnr_per_clip, score, ssim_per_clip
from workshop_lib.models.files import load_model
from workshop_lib.models.token_search import search_tokens
from workshop_lib.models.tokenizer import Tokenizer
from workshop_lib.nn.codebook import CodebookUse
from workshop_lib.pretrained import find_file

BATCH = 8


@dataclass(frozen=True)
class TokenizerReport:
    """psnr in dB, per frame; ssim 0 to 1; each with the clips (not frames) as the sample.

    controls: the PSNR of pictures that need no tokenizer: the mean frame, and a small bicubic
        copy of at most the same bits.
    usage: share of codes used at all. perplexity: how many codes are used, in effect.
    searched: psnr of the tokens that `search` sweeps find (models/token_search.py), where there
        are any; all else is of the encoder's own tokens.
    """

    frames: int
    tokens_per_frame: float
    bits_per_frame: float
    num_codes: int
    psnr: Score
    ssim: Score
    controls: dict[str, Score]
    usage: float
    perplexity: float
    code_counts: list[int]
    search: int = 0
    searched: Score | None = None

    def table(self) -> str:
        rows = {
            "frames": f"{self.frames}",
            "tokens a frame": f"{self.tokens_per_frame:g} of {self.num_codes} codes",
            "bits a frame": f"{self.bits_per_frame:g}",
            "PSNR, dB": str(self.psnr),
            **({"PSNR by search, dB": str(self.searched)} if self.search else {}),
            "SSIM": f"{self.ssim.mean:.4f} ± {self.ssim.interval:.4f}",
            **{f"control: {name}, dB": str(score) for name, score in self.controls.items()},
            "codes in use": f"{100 * self.usage:.1f}%",
            "perplexity": f"{self.perplexity:.1f}",
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def evaluate(
    model: str,
    data: str = "data/easy",
    split: Literal["train", "val", "test"] = "test",
    clips: int = 128,
    length: int = 16,
    seed: int = 0,
    search: int = 0,
    out: str | None = None,
) -> TokenizerReport:
    """Measures a tokenizer on held-out clips, and draws what it does.

    Args:
        model: the safetensors file of a tokenizer, or the name of a pretrained one.
        data: a split folder.
        split: which of its sets.
        clips: how many clips are measured.
        length: frames in a clip; at most so many, where the tokenizer shrinks time.
        seed: of the choice of clips.
        search: sweeps of a search for better tokens than the encoder's, whose PSNR is reported
            beside the encoder's; each takes some 45 decodings a frame.
        out: folder for report.json, reconstructions.png, tokens.png and codebook.png.
    """
    tokenizer = load_model(find_file(model))
    if not isinstance(tokenizer, Tokenizer):
        raise WorkshopError(f"{model}: holds a {type(tokenizer).__name__}, not a tokenizer")
    time_patch = tokenizer.config.time_patch  # it takes 1 + a multiple of that
    frames = heldout_clips(data, split, clips, length - (length - 1) % time_patch, seed)
    report = measure(tokenizer, frames, search)
    print(report.table())
    if out is not None:
        write_report(Path(out), tokenizer, report, frames[:8])
        print(f"wrote {out}")
    return report


def heldout_clips(data: str | Path, split: str, clips: int, length: int, seed: int = 0) -> Tensor:
    """uint8 (clips, length, H, W, C), spread evenly over the set's episodes; equal for one seed."""
    config = ClipConfig(length=length, batch_size=BATCH, seed=seed, window=1)
    batches = fixed_clips(split_shards(data, split), config, math.ceil(clips / BATCH))
    return torch.cat([clip.frames for clip in batches])[:clips]


@torch.no_grad()
def measure(tokenizer: Tokenizer, frames: Tensor, search: int = 0) -> TokenizerReport:
    """The report on uint8 frames (B, T, H, W, C). search: sweeps (models/token_search.py)."""
    use = CodebookUse(tokenizer.num_codes)
    device = next(tokenizer.parameters()).device
    psnr: list[float] = []
    ssim: list[float] = []
    searched: list[float] = []
    controls: dict[str, list[float]] = {"mean frame": [], "bicubic of as many bits": []}
    mean_frame = frames_to_video(frames).mean(dim=(0, 1), keepdim=True)
    side = math.isqrt(int(tokenizer.bits_per_frame / 24))  # pixels of 24 bits
    for part in frames.split(BATCH):
        tokens = tokenizer.encode(part.to(device))
        use.add(tokens)
        again = tokenizer.decode(tokens).cpu()
        real, video = frames_to_video(part), frames_to_video(again)
        small = bicubic(real, max(1, side))
        psnr += psnr_per_clip(video, real)
        if search:
            better = tokenizer.decode(search_tokens(tokenizer, part.to(device), search)).cpu()
            searched += psnr_per_clip(frames_to_video(better), real)
        ssim += ssim_per_clip(video, real)
        controls["mean frame"] += psnr_per_clip(mean_frame.expand_as(real), real)
        controls["bicubic of as many bits"] += psnr_per_clip(small, real)
    return TokenizerReport(
        frames=frames.shape[0] * frames.shape[1],
        tokens_per_frame=tokenizer.tokens_per_frame,
        bits_per_frame=tokenizer.bits_per_frame,
        num_codes=tokenizer.num_codes,
        psnr=score(psnr),
        ssim=score(ssim),
        controls={name: score(values) for name, values in controls.items()},
        usage=use.share,
        perplexity=use.perplexity,
        code_counts=use.counts.tolist(),
        search=search,
        searched=score(searched) if search else None,
    )


def bicubic(video: Tensor, side: int) -> Tensor:
    """Shrinks float (B, T, C, H, W) to side x side pixels and enlarges it again."""
    frames = video.flatten(0, 1)
    small = F.interpolate(frames, size=(side, side), mode="bicubic", antialias=True)
    large = F.interpolate(small, size=frames.shape[-2:], mode="bicubic")
    return large.unflatten(0, video.shape[:2])


def write_report(
    folder: Path, tokenizer: Tokenizer, report: TokenizerReport, frames: Tensor
) -> None:
    """report.json and three pictures; frames: uint8 (B, T, H, W, C), some held-out clips."""
    from workshop_lib.media.sheet import contact_sheet, write_image
    from workshop_lib.media.token_plots import codebook_histogram, token_map

    folder.mkdir(parents=True, exist_ok=True)
    brief = replace(report, code_counts=[])
    (folder / "report.json").write_text(json.dumps(asdict(brief), indent=2) + "\n")
    middle = frames.shape[1] // 2
    tokens = tokenizer.encode(frames)
    rows = torch.cat([frames[:, middle], tokenizer.decode(tokens)[:, middle]])
    labels = ["real"] * len(frames) + ["again"] * len(frames)
    sheet = contact_sheet(rows.numpy(), len(frames), labels, scale=2)
    write_image(folder / "reconstructions.png", sheet)
    token_map(frames[0, 0].numpy(), tokens[0, 0].numpy()).savefig(folder / "tokens.png")
    codebook_histogram(report.code_counts).savefig(folder / "codebook.png")
