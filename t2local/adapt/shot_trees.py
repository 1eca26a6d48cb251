"""Shots and their answers as trees: what all candidates of a mixture search read in one forward.

A row is one candidate: the tokens that all shots begin with once, then every shot, then each of its
answers without their last token, each branch seeing only what leads to it. Rows are alike but for
their `z`, so there is no padding, and positions that predict are looked at once, whatever number of
answers begins there. Knows nothing of `z`, rewards or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2local.models.load import LoadedModel
from t2local.models.scoring import head

Tokens = Sequence[int]


@dataclass
class _Growing:
    """A tree while it is built: nodes in order, each with its parent's place (-1 for the root)."""

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)

    def grow(self, parent: int, tokens: Tokens) -> int:
        """Add a path below `parent`; the place of its last node."""
        for token in tokens:
            self.depths.append(self.depths[parent] + 1 if parent >= 0 else 0)
            self.ids.append(token)
            self.parents.append(parent)
            parent = len(self.ids) - 1
        return parent


@dataclass(frozen=True)
class ShotTree:
    """`ids`, `positions` `[T]`; `allowed` `[T, T]` bool (query, key).

    An answer token: `predictors` `[N]`, the node whose logits predict it; `targets` `[N]`;
    `slots` `[N]`, its answer, counted over all shots. `lengths` `[A]`: tokens of each answer.
    """

    ids: Tensor
    positions: Tensor
    allowed: Tensor
    predictors: Tensor
    targets: Tensor
    slots: Tensor
    lengths: Tensor

    @property
    def tokens(self) -> int:
        return len(self.ids)


def plant(prompts: Sequence[Tokens], answers: Sequence[Sequence[Tokens]]) -> ShotTree:
    """The tree of some shots: `prompts` and, for each, its answers (none of them empty)."""
    tree, common = _Growing(), _common(prompts)
    root = tree.grow(-1, prompts[0][:common])
    predictors, targets, slots, lengths = [], [], [], []
    for prompt, choices in zip(prompts, answers, strict=True):
        end = tree.grow(root, prompt[common:])
        for choice in choices:
            place = end
            for i, token in enumerate(choice):
                predictors.append(place)
                targets.append(token)
                slots.append(len(lengths))
                if i < len(choice) - 1:
                    place = tree.grow(place, [token])
            lengths.append(len(choice))
    allowed = torch.eye(len(tree.ids), dtype=torch.bool)
    for place, parent in enumerate(tree.parents):  # a node sees what its parent sees, and itself
        if parent >= 0:
            allowed[place] |= allowed[parent]
    number = torch.tensor
    return ShotTree(
        number(tree.ids), number(tree.depths), allowed, number(predictors), number(targets),
        number(slots), number(lengths),
    )  # fmt: skip


@torch.no_grad()
def answer_log_likelihoods(loaded: LoadedModel, tree: ShotTree, rows: int) -> Tensor:
    """`[rows, A]` float32: Σ log p of each answer's tokens, under the `z` in force for each row."""
    model, device = loaded.model, loaded.model.device
    floor = torch.finfo(model.dtype).min
    mask = torch.where(tree.allowed, 0.0, floor).to(device, model.dtype)[None, None]
    hidden = model.base_model(
        input_ids=tree.ids.to(device).expand(rows, -1),
        attention_mask=mask.expand(rows, 1, -1, -1),
        position_ids=tree.positions.to(device).expand(rows, -1),
        use_cache=False,
    ).last_hidden_state  # [rows, T, d]
    places, index = tree.predictors.unique(return_inverse=True)
    totals = torch.zeros(rows, len(tree.lengths), device=device)
    for row in range(rows):  # logits of one candidate at a time: places × vocabulary
        logits = head(model, hidden[row, places.to(device)])  # [P, V]
        log_p = logits[index.to(device), tree.targets.to(device)]
        log_p = log_p - logits.logsumexp(-1)[index.to(device)]  # [N]
        totals[row].index_add_(0, tree.slots.to(device), log_p)
    return totals


def _common(prompts: Sequence[Tokens]) -> int:
    """How many tokens all prompts begin with; each keeps at least one of its own."""
    shortest = min(map(len, prompts)) - 1
    same = (i for i in range(shortest) if len({prompt[i] for prompt in prompts}) > 1)
    return next(same, shortest)
