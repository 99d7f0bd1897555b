"""What latent actions have to do with the true ones: `workshop evaluate lam`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from workshop_lib.data.actions import ACTIONS, MERGED_NAMES, VERTICAL
from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.agreement import (
    Agreement,
    agreement,
    best_mapping,
    codes_after,
    count_table,
    typical_codes,
)
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.evaluation.inverse_dynamics import InverseDynamics, merged, train_probe
from workshop_lib.evaluation.metrics import Score, psnr, score, write_json
from workshop_lib.evaluation.starts import CALM
from workshop_lib.models.files import load_model, read_metadata
from workshop_lib.models.latent_action import LatentActionModel
from workshop_lib.nn.codebook import CodebookUse
from workshop_lib.pretrained import find_file

BATCH = 32
HORIZON = 4  # frames; Genie's t in delta_t PSNR
AFTER = 12  # transitions that are measured in each clip
FITTED = 4  # times as many clips tell what the codes stand for
FEW = 50  # moments: with fewer on the ground, a key is known by all of its moments


@dataclass(frozen=True)
class LatentActionReport:
    """agreement: of the codes with the player's six actions; probe: of the same encoder that was
    trained for `probe_steps` steps with the actions told, or None.

    delta_psnr: dB by which the 4th frame of a rollout is nearer to the truth under the codes
        inferred than under random ones (Bruce et al. 2024, section 3, delta_t PSNR); psnr: of the
        former.
    usage: share of codes used at all. perplexity: how many codes are used, in effect.
    confusion: counts (6, K) of held-out transitions, an action of MERGED_NAMES in each row.
    meaning: the action that each code stands for. key_codes: for each action the code that stands
        for it after each code and, last, anywhere: the one most typical of it where a player stands
        on the ground, for in the air the keys do next to nothing; but see `codes_after`.
    """

    transitions: int
    num_codes: int
    agreement: Agreement
    probe: Agreement | None
    probe_steps: int
    delta_psnr: Score
    psnr: Score
    usage: float
    perplexity: float
    confusion: list[list[int]]
    meaning: list[str]
    key_codes: dict[str, list[int]]

    @property
    def share_of_probe(self) -> float | None:
        """The codes' NMI over the probe's."""
        if self.probe is None or self.probe.nmi.mean <= 0:
            return None
        return self.agreement.nmi.mean / self.probe.nmi.mean

    def table(self) -> str:
        columns = {"codes": self.agreement}
        if self.probe is not None:
            columns["told the actions"] = self.probe
        rows = [["", *columns]]
        for name, key in (("NMI", "nmi"), ("balanced", "balanced"), ("accuracy", "accuracy")):
            rows.append([name, *(str(getattr(each, key)) for each in columns.values())])
        rows.append(["(always the commonest", f"{self.agreement.majority:.2f})"])
        if self.share_of_probe is not None:
            rows.append(["share of the NMI", f"{100 * self.share_of_probe:.0f}%"])
        rows.append([f"delta PSNR at {HORIZON}, dB", str(self.delta_psnr)])
        rows.append(["codes in use", f"{100 * self.usage:.0f}% of {self.num_codes}"])
        rows.append(["perplexity", f"{self.perplexity:.1f}"])
        rows.append(["transitions", str(self.transitions)])
        lines = (f"{row[0]:<24}" + "".join(f"{cell:<20}" for cell in row[1:]) for row in rows)
        return "\n".join(lines)


def evaluate(
    model: str,
    data: str = "data/easy-control",
    split: Literal["train", "val", "test"] = "test",
    clips: int = 512,
    probe_steps: int | None = None,
    write_keys: bool = False,
    device: str = "auto",
    seed: int = 0,
    out: str | None = None,
) -> LatentActionReport:
    """Measures how well latent actions agree with the true ones, on held-out levels.

    The ceiling: the same encoder, trained as long with the true actions told.

    Args:
        model: the safetensors file of a latent action model, or a pretrained one's name.
        data: a split folder, with actions.
        split: which of its sets.
        clips: how many episodes, each another one; all there are if there are fewer.
        probe_steps: training steps of the ceiling; by default the model's own; 0 leaves it out.
        write_keys: write the codes of the keys into the model's file, for playing by keys.
        device: where it runs: cpu, cuda, or auto for the GPU if there is one.
        seed: of the choice of clips, of random codes and of the ceiling.
        out: folder for report.json and confusion.png.
    """
    model = str(find_file(model))
    lam = load_model(model, _device(device))
    if not isinstance(lam, LatentActionModel):
        raise WorkshopError(f"{model}: holds a {type(lam).__name__}, not a latent action model")
    length = lam.config.history + AFTER
    heldout = heldout_episodes(data, split, clips, length, seed)
    # The mapping from codes to actions is fitted on other levels than it is judged on.
    fitting = heldout_episodes(data, "train", FITTED * clips, length + CALM, seed)
    steps = int(lam.code.steps) if probe_steps is None else probe_steps
    probe = train_probe(lam, data, steps, seed) if steps else None
    report = measure(lam, heldout, fitting, probe, steps, seed)
    print(report.table())
    if out is not None:
        write_report(Path(out), report)
        print(f"wrote {out}")
    if write_keys:
        store_keys(model, torch.tensor(list(report.key_codes.values())).T)
        print(f"{model}: now knows the codes of the keys")
    return report


def measure(
    lam: LatentActionModel,
    heldout: Clip,
    fitting: Clip,
    probe: InverseDynamics | None = None,
    probe_steps: int = 0,
    seed: int = 0,
) -> LatentActionReport:
    """The report on held-out clips of more than history + 4 frames.

    fitting: clips of other levels, on which the mapping from codes to actions is fitted.
    """
    codes, actions = infer_all(lam, lam, heldout)
    fitted, by_key = count_codes(lam, fitting)
    told = None
    if probe is not None:
        itself = torch.eye(len(MERGED_NAMES), dtype=torch.int64)  # it names the actions
        counts = itself * torch.bincount(actions.flatten(), minlength=len(MERGED_NAMES))
        told = agreement(infer_all(lam, probe, heldout)[0], actions, counts, seed)
    use = CodebookUse(lam.num_codes)
    use.add(codes)
    inferred, random = rollouts(lam, heldout, seed)
    return LatentActionReport(
        transitions=codes.numel(),
        num_codes=lam.num_codes,
        agreement=agreement(codes, actions, fitted, seed),
        probe=told,
        probe_steps=probe_steps,
        delta_psnr=score(inferred - random),
        psnr=score(inferred),
        usage=use.share,
        perplexity=use.perplexity,
        confusion=count_table(codes, actions, lam.num_codes).tolist(),
        meaning=[MERGED_NAMES[i] for i in best_mapping(fitted, balanced=True).tolist()],
        key_codes=dict(zip(MERGED_NAMES, by_key.T.tolist(), strict=True)),
    )


def count_codes(lam: LatentActionModel, clip: Clip) -> tuple[Tensor, Tensor]:
    """How often each code came with each action, int64 (6, K), in all transitions; and the code of
    each action after each code, int64 (K + 1, 6), for which those from the ground count, for every
    action with enough of them.

    A player stands on the ground where nobody jumped in the 15 frames before, as in starts.py.
    """
    codes, actions = infer_all(lam, lam, clip)
    everywhere = count_table(codes, actions, lam.num_codes)
    jumps = torch.from_numpy(VERTICAL)[clip.actions[:, :-1]] > 0
    calm = torch.zeros_like(jumps)
    for t in range(CALM, jumps.shape[1]):
        calm[:, t] = ~jumps[:, t - CALM : t].any(dim=1)
    calm = calm[:, lam.config.history - 1 :]
    standing = count_table(codes[calm], actions[calm], lam.num_codes)
    enough = standing.sum(dim=1, keepdim=True) >= FEW
    usual = typical_codes(torch.where(enough, standing, everywhere))
    return everywhere, codes_after(usual, codes, actions, lam.num_codes)


def infer_all(
    lam: LatentActionModel, reader: LatentActionModel | InverseDynamics, clip: Clip
) -> tuple[Tensor, Tensor]:
    """What a reader says of all transitions that have a whole history before them, and the true
    actions of the player's six; int64 (B, n), on the CPU."""
    device, first = next(lam.parameters()).device, lam.config.history - 1
    said = [
        reader.infer(lam.seen(clip[start : start + BATCH]).to(device)).cpu()
        for start in range(0, len(clip), BATCH)
    ]
    return torch.cat(said)[:, first:], merged(clip.actions[:, first:-1])


def rollouts(lam: LatentActionModel, clip: Clip, seed: int = 0) -> tuple[Tensor, Tensor]:
    """PSNR in dB of the 4th frame dreamed, float (B,): under inferred and under random codes."""
    device, k = next(lam.parameters()).device, lam.config.history
    generator = torch.Generator().manual_seed(seed)
    scores: list[list[Tensor]] = [[], []]
    for start in range(0, len(clip), BATCH):
        part = clip[start : start + BATCH]
        inferred = lam.infer(lam.seen(part).to(device))[:, k - 1 : k - 1 + HORIZON]
        random = torch.randint(lam.num_codes, inferred.shape, generator=generator).to(device)
        for codes, values in zip((inferred, random), scores, strict=True):
            dreamed = lam.predict(part.frames[:, :k].to(device), codes)[:, -1].cpu()
            values.append(psnr(dreamed, part.frames[:, k - 1 + HORIZON]))
    return torch.cat(scores[0]), torch.cat(scores[1])


def store_keys(path: str | Path, codes: Tensor) -> None:
    """Writes codes int64 (K + 1, 6) of MERGED_NAMES into a model's file, spread over the game's
    keys."""
    metadata, target = read_metadata(path), Path(path)
    with safe_open(target, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state["keys"] = codes[:, merged(torch.arange(len(ACTIONS)))]
    partial = target.with_name(f".{target.name}.partial")
    save_file(state, partial, metadata)
    partial.replace(target)


def write_report(folder: Path, report: LatentActionReport) -> None:
    """report.json and confusion.png."""
    from workshop_lib.media.latent_plots import confusion_matrix

    write_json(folder / "report.json", report)
    confusion_matrix(report.confusion, report.meaning).savefig(folder / "confusion.png")


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
