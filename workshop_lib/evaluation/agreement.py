"""How well codes agree with what was really pressed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from workshop_lib.data.actions import MERGED_NAMES
from workshop_lib.evaluation.metrics import Score

RESAMPLED = 200  # drawings of the bootstrap
CLASSES = len(MERGED_NAMES)


@dataclass(frozen=True)
class Agreement:
    """Codes against the player's six actions, on held-out transitions.

    nmi: normalized mutual information, 0 (codes tell nothing) to 1 (they are the actions under
        other names), over the mean of the two entropies.
    balanced: the mean over actions of the share that is recognized, by the best mapping from codes
        to actions; chance is 1/6.
    accuracy: the share of all transitions that is recognized, by the mapping that is best for
        that. majority: the same for always naming the commonest action.

    Intervals are 95% bootstrap intervals over clips.
    """

    nmi: Score
    balanced: Score
    accuracy: Score
    majority: float


def count_table(codes: Tensor, actions: Tensor, num_codes: int) -> Tensor:
    """How often each code came with each action: int64 (6, K). Both int64 of one shape."""
    pairs = actions.flatten() * num_codes + codes.flatten()
    return torch.bincount(pairs, minlength=CLASSES * num_codes).view(CLASSES, num_codes)


def best_mapping(table: Tensor, balanced: bool) -> Tensor:
    """The action that each code stands for, int64 (K,), from a table of counts (6, K).

    balanced: as if all actions were equally common.
    """
    weights = shares(table) if balanced else table
    return weights.argmax(dim=0)


def typical_codes(table: Tensor) -> Tensor:
    """For each action the code that is most typical of it, int64 (6,), from counts (6, K).

    That is the code with the largest P(code | action) P(action | code), all actions being equally
    common: one that comes with the action often, and with others seldom. Codes that mean the
    action more than any other come first: nobody needs LEFT's code for standing still while there
    is one that speaks of standing still, if seldom.
    """
    share = shares(table)
    typical = share * share / share.sum(dim=0).clamp_min(1e-12)
    means_it = best_mapping(table, balanced=True) == torch.arange(CLASSES)[:, None]
    means_it &= table.sum(dim=0) > 0
    others = ~means_it & means_it.any(dim=1, keepdim=True)
    return typical.masked_fill(others, -1.0).argmax(dim=1)


def shares(table: Tensor) -> Tensor:
    """Counts (6, K) as the share of each code among the transitions of an action; rows sum to 1."""
    return table / table.sum(dim=1, keepdim=True).clamp_min(1)


def agreement(codes: Tensor, actions: Tensor, fitted: Tensor, seed: int = 0) -> Agreement:
    """The agreement of held-out codes with actions, both int64 (clips, n).

    fitted: int64 (6, K), the table of counts of other levels, on which mappings are fitted.
    """
    by_class = best_mapping(fitted, balanced=True)
    by_count = best_mapping(fitted, balanced=False)
    commonest = int(fitted.sum(dim=1).argmax())

    def measure(rows: Tensor) -> tuple[float, float, float]:
        c, a = codes[rows].flatten(), actions[rows].flatten()
        right = (by_count[c] == a).double().mean()
        return mutual_information(c, a), balanced_accuracy(by_class[c], a), float(right)

    count = len(codes)
    generator = torch.Generator().manual_seed(seed)
    values = measure(torch.arange(count))
    drawn = torch.tensor(
        [measure(torch.randint(count, (count,), generator=generator)) for _ in range(RESAMPLED)]
    )
    spread = (1.96 * drawn.std(dim=0)).tolist()
    nmi, balanced, accuracy = (Score(v, width) for v, width in zip(values, spread, strict=True))
    majority = float((actions == commonest).double().mean())
    return Agreement(nmi, balanced, accuracy, majority)


def mutual_information(codes: Tensor, actions: Tensor) -> float:
    """Normalized mutual information of two labelings int64 (n,)."""
    from torchmetrics.functional.clustering import normalized_mutual_info_score

    if len(codes.unique()) < 2 or len(actions.unique()) < 2:
        return 0.0  # what never changes tells nothing; torchmetrics says 1 if both stand still
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sparse tensors inside
        return float(normalized_mutual_info_score(codes, actions))


def balanced_accuracy(named: Tensor, actions: Tensor) -> float:
    """The mean over the actions that occur of the share that is named right; int64 (n,)."""
    table = count_table(named, actions, CLASSES)
    occurs = table.sum(dim=1) > 0
    return float(shares(table).diagonal()[occurs].mean())
