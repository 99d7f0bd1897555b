"""Measures tokenizers trained with equal budgets: the tables and pictures of docs/tokenizers.md.

    python tools/tokenizer_table.py --data data --work runs/tokenizer-table

trains tokenizer/tiny with 16, 64 and 256 tokens a frame and every kind of quantizer, on data/easy
and data/hard, and measures each on held-out levels. A run leaves one JSON file in the work folder
and is not repeated while that is there, so it can be stopped at any time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
LOOKS = ("easy", "hard")
PATCHES = {16: 16, 64: 8, 256: 4}  # tokens in a frame of 64x64 pixels: pixels across a token
QUANTIZERS: dict[str, dict[str, Any]] = {
    "FSQ": {"kind": "fsq", "levels": [8, 8, 8]},
    "VQ": {"kind": "vq", "num_codes": 512},
    "LFQ": {"kind": "lfq", "bits": 9},
    "FSQ 4096": {"kind": "fsq", "levels": [8, 8, 8, 8]},  # with 64 tokens only
}
BEGIN, END = "<!-- tables: tools/tokenizer_table.py -->", "<!-- end of tables -->"


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    look: str
    tokens: int
    quantizer: str

    @property
    def name(self) -> str:
        return f"{self.look}-{self.tokens}-{self.quantizer.lower().replace(' ', '-')}"


Row = dict[str, Any]  # a Run's fields and what was measured


def grid() -> list[Run]:
    """All runs, those of 64 tokens first, so that an unfinished table is of use already."""
    return [
        Run(look, tokens, quantizer)
        for tokens in (64, 16, 256)
        for quantizer in QUANTIZERS
        if tokens == 64 or quantizer != "FSQ 4096"
        for look in LOOKS
    ]


def train(run: Run, data: Path, work: Path, steps: int) -> tuple[Path, float]:
    """`workshop fit`: the folder of the run, and the CPU seconds that it took."""
    from workshop_lib.training.run import fit

    shutil.rmtree(work / run.name, ignore_errors=True)  # of a run that was broken off
    kind = QUANTIZERS[run.quantizer].items()
    began = time.process_time()
    fit([
        "-c", "tokenizer/tiny", "--data.path", str(data / run.look),
        "--model.patch", str(PATCHES[run.tokens]),
        *(f"--model.quantizer.{key}={value}" for key, value in kind),
        "--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(steps),
        "--preview_every", "0", "--checkpoint_every", str(steps),
        "--runs", str(work), "--name", run.name,
    ])  # fmt: skip
    return work / run.name / "version_0", time.process_time() - began


def row_of(run: Run, data: Path, work: Path, steps: int, clips: int) -> Row:
    """The run's row: from its file if it is there, else trained and measured now.

    Raises WorkshopError if the file's run was of another budget.
    """
    from workshop_lib.errors import WorkshopError
    from workshop_lib.evaluation.tokenizer import heldout_clips, measure
    from workshop_lib.models.files import load_model

    file = work / f"{run.name}.json"
    if file.exists():
        row: Row = json.loads(file.read_text())
        if (row["steps"], row["clips"]) != (steps, clips):
            raise WorkshopError(
                f"{file}: of {row['steps']} steps and {row['clips']} clips, not {steps} and "
                f"{clips}; choose another --work"
            )
        return row
    folder, seconds = train(run, data, work, steps)
    model: Any = load_model(folder / "model.safetensors")
    report = asdict(measure(model, heldout_clips(data / run.look, "test", clips, 16)))
    del report["code_counts"]
    parameters = sum(p.numel() for p in model.parameters())
    row = {
        **asdict(run), "steps": steps, "clips": clips, "cpu_seconds": seconds,
        "parameters": parameters, "model": str(folder / "model.safetensors"), **report,
    }  # fmt: skip
    file.write_text(json.dumps(row, indent=2) + "\n")
    return row


def table(rows: list[Row]) -> str:
    """The rows of one look as Markdown, from few bits to many, and the controls."""
    lines = [
        "| tokens | bits | quantizer | PSNR, dB | SSIM | codes used | perplexity | CPU s |",
        "|---:|---:|---|---|---|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: (row["bits_per_frame"], row["quantizer"])):
        psnr, ssim = row["psnr"], row["ssim"]
        lines.append(
            f"| {row['tokens']} | {row['bits_per_frame']:,.0f} | "
            f"{row['quantizer'].split()[0]}, {row['num_codes']:,} codes | "
            f"{psnr['mean']:.2f} ± {psnr['interval']:.2f} | "
            f"{ssim['mean']:.3f} ± {ssim['interval']:.3f} | "
            f"{100 * row['usage']:.0f}% | {row['perplexity']:,.0f} | {row['cpu_seconds']:.0f} |"
        )
    for bits, score in controls(rows).items():
        lines.append(f"| | {bits:,.0f} | control: bicubic | {score:.2f} | | | | |")
    mean_frame = rows[0]["controls"]["mean frame"]["mean"]
    return "\n".join([*lines, f"| | 0 | control: mean frame | {mean_frame:.2f} | | | | |"])


def controls(rows: list[Row]) -> dict[float, float]:
    """Bits a frame to the PSNR of a bicubic copy of as many bits."""
    name = "bicubic of as many bits"
    found = {row["bits_per_frame"]: row["controls"][name]["mean"] for row in rows}
    return dict(sorted(found.items()))


def draw_curves(rows: list[Row], path: Path) -> None:
    """PSNR against bits per frame, a line for each quantizer, a panel for each look."""
    from workshop_lib.media.plots import PALETTE, QUIET, figure_with_axes

    looks = by_look(rows)
    with figure_with_axes(1 + 3.8 * len(looks), 3.6, columns=len(looks), sharey=True) as drawn:
        figure, axes = drawn
        for ax, (look, here) in zip(axes, looks.items(), strict=True):
            for color, name in zip(PALETTE, QUANTIZERS, strict=False):
                of = sorted(
                    (row["bits_per_frame"], row["psnr"]["mean"], row["psnr"]["interval"])
                    for row in here
                    if row["quantizer"] == name
                )
                if of:
                    bits, psnr, interval = zip(*of, strict=True)
                    ax.errorbar(
                        bits, psnr, interval, color=color, marker="o", ms=4, capsize=2, label=name
                    )
            ax.plot(*zip(*controls(here).items(), strict=True), "--", color=QUIET, label="bicubic")
            ax.set(title=f"{look} levels", xlabel="bits per frame", xscale="log")
            ax.set_xticks([144, 576, 2304], ["144", "576", "2,304"])
            ax.minorticks_off()
        axes[0].set_ylabel("held-out PSNR, dB")
        axes[0].legend(fontsize=9)
        figure.savefig(path, dpi=80)


def draw_frames(rows: list[Row], data: Path, path: Path, count: int = 6) -> None:
    """The same held-out frames as they are, and from 256, 64 and 16 tokens by FSQ."""
    from workshop_lib.evaluation.tokenizer import heldout_clips
    from workshop_lib.media.sheet import contact_sheet, write_image
    from workshop_lib.models.files import load_model

    pictures, labels = [], []
    for look, here in by_look(rows).items():
        frames = heldout_clips(data / look, "test", count, 1, seed=3)
        shown = {f"{look}, real": frames}
        for row in sorted(here, key=lambda row: -row["tokens"]):
            if row["quantizer"] == "FSQ":
                model: Any = load_model(row["model"])
                shown[f"{row['tokens']} tokens"] = model.reconstruct(frames)
        for label, each in shown.items():
            pictures += list(each[:, 0].numpy())
            labels += [label] * count
    write_image(path, contact_sheet(pictures, count, labels, scale=2))


def by_look(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each look that has any."""
    parts = {look: [row for row in rows if row["look"] == look] for look in LOOKS}
    return {look: part for look, part in parts.items() if part}


def write_docs(rows: list[Row], data: Path, docs: Path) -> None:
    """The two pictures, and the tables between the marks of tokenizers.md."""
    docs.mkdir(parents=True, exist_ok=True)
    draw_curves(rows, docs / "tokenizers.png")
    draw_frames(rows, data, docs / "tokenizers-frames.png")
    tables = [f"**{look.capitalize()} levels**\n\n{table(r)}" for look, r in by_look(rows).items()]
    page = docs / "tokenizers.md"
    text = page.read_text() if page.exists() else f"{BEGIN}{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text("\n\n".join([before + BEGIN, *tables, END + after]))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="holds easy/ and hard/")
    parser.add_argument("--work", type=Path, default=Path("runs/tokenizer-table"))
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--steps", type=int, default=850, help="of 32 frames, for every run")
    parser.add_argument("--clips", type=int, default=128, help="held-out clips of 16 frames")
    parser.add_argument("--only", default="", help="runs with this in their name, e.g. easy-64")
    asked = parser.parse_args(arguments)
    asked.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for run in grid():
        if asked.only in run.name:
            row = row_of(run, asked.data, asked.work, asked.steps, asked.clips)
            rows.append(row)
            used = f"{100 * row['usage']:.1f}% of codes used"
            print(f"{run.name}: {row['psnr']['mean']:.2f} dB, {used}", flush=True)
    write_docs(rows, asked.data, asked.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
