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
ENOUGH = 20  # transitions of an action after a code, to know which code never comes there
NEVER = 0.01  # share of them


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
    """For each action the code that stands for it, int64 (6,), from counts (6, K).

    The most typical pair of an action and a code comes first, and its code is taken; so no two
    actions share a code while there is another one that ever came with them. Nobody needs LEFT's
    code for standing still, though it is the commonest one of a player that faces left.
    """
    typical = how_typical(table)
    codes, left = typical.argmax(dim=1), typical.clone()
    while left.max() > 0:
        action, code = divmod(int(left.argmax()), table.shape[1])
        codes[action] = code
        left[action], left[:, code] = 0, 0
    return codes


def how_typical(table: Tensor) -> Tensor:
    """How typical each code is of each action, float (6, K), from counts (6, K).

    P(code | action) P(action | code), all actions being equally common: a code is typical that
    comes with the action often, and with others seldom.
    """
    share = shares(table)
    return share * share / share.sum(dim=0).clamp_min(1e-12)


def codes_after(usual: Tensor, codes: Tensor, actions: Tensor, num_codes: int) -> Tensor:
    """The code that stands for each action after each code, int64 (K + 1, 6); last, after none.

    usual: int64 (6,), the code of each action wherever one is (`typical_codes`).
    codes, actions: int64 (clips, n), of consecutive transitions.

    It is the usual one, but for what never happens. Codes tell what is to be seen, and a jump looks
    another way where the player faces left: after LEFT's code the usual one of a jump never comes,
    and a world that is told so may not jump at all. The code that is most typical of the action
    after that one takes its place. Doing nothing always keeps its code: who lets go in the air
    would else be told to go on falling where he has landed.
    """
    table = usual.repeat(num_codes + 1, 1)
    before, codes, actions = codes[:, :-1], codes[:, 1:], actions[:, 1:]
    pressed = torch.arange(CLASSES) != MERGED_NAMES.index("nothing")
    for code in range(num_codes):
        counts = count_table(codes[before == code], actions[before == code], num_codes)
        own = shares(counts).gather(1, usual[:, None])[:, 0]
        never = pressed & (counts.sum(dim=1) >= ENOUGH) & (own < NEVER)
        table[code] = torch.where(never, how_typical(counts).argmax(dim=1), usual)
    return table


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
