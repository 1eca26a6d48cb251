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
from transformers import DynamicCache

from t2local.models.decode.generate import Batch, padded
from t2local.models.decode.scoring import head
from t2local.models.load.loader import LoadedModel

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

    `prompts`: the tokens of each; `paths`: the nodes that they are. An answer token: `predictors`
    `[N]`, the node whose logits predict it; `targets` `[N]`; `slots` `[N]`, its answer, counted
    over all shots. `lengths` `[A]`: tokens of each answer.
    """

    ids: Tensor
    positions: Tensor
    allowed: Tensor
    predictors: Tensor
    targets: Tensor
    slots: Tensor
    lengths: Tensor
    prompts: tuple[tuple[int, ...], ...]
    paths: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        return len(self.ids)


def plant(prompts: Sequence[Tokens], answers: Sequence[Sequence[Tokens]]) -> ShotTree:
    """The tree of some shots: `prompts` and, for each, its answers (none of them empty)."""
    tree, common = _Growing(), _common(prompts)
    root = tree.grow(-1, prompts[0][:common])
    predictors, targets, slots, lengths, paths = [], [], [], [], []
    for prompt, choices in zip(prompts, answers, strict=True):
        end = tree.grow(root, prompt[common:])
        paths.append((*range(common), *range(end + 1 - len(prompt) + common, end + 1)))
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
        number(slots), number(lengths), tuple(map(tuple, prompts)), tuple(paths),
    )  # fmt: skip


@torch.no_grad()
def answer_log_likelihoods(loaded: LoadedModel, tree: ShotTree, rows: int) -> Tensor:
    """`[rows, A]` float32: Σ log p of each answer's tokens, under the `z` in force for each row."""
    return _likelihoods(loaded, tree, _read(loaded, tree, rows, None))


@torch.no_grad()
def begin_answers(loaded: LoadedModel, tree: ShotTree, rows: int) -> tuple[Tensor, Batch]:
    """`answer_log_likelihoods` and, from the same forward, a batch about to answer every shot.

    Its rows: all shots of the first row of `z`, then those of the second, and so on.
    """
    cache = DynamicCache()
    hidden = _read(loaded, tree, rows, cache)
    ids, mask = (part.to(loaded.model.device) for part in padded(tree.prompts))  # [S, L]
    nodes = torch.zeros_like(ids)  # where a shot's tokens are; what is masked may be any
    for shot, path in enumerate(tree.paths):
        nodes[shot, -len(path) :] = torch.tensor(path, device=nodes.device)
    branches = DynamicCache()
    for place, layer in enumerate(cache.layers):
        parts = (_branches(part, nodes) for part in (layer.keys, layer.values))
        branches.update(*parts, place)
    logits = head(loaded.model, hidden[:, nodes[:, -1]]).flatten(end_dim=1)  # [rows × S, V]
    ids, mask = ids.repeat(rows, 1), mask.repeat(rows, 1)
    batch = Batch(loaded.model, ids, mask, branches, logits)
    return _likelihoods(loaded, tree, hidden), batch


def _branches(part: Tensor, nodes: Tensor) -> Tensor:
    """Keys or values `[rows, h, T, d]` as those of each shot alone `[rows × S, h, L, d]`."""
    rows, heads, _, width = part.shape
    taken = part[:, :, nodes.flatten()].view(rows, heads, *nodes.shape, width)
    return taken.transpose(1, 2).flatten(end_dim=1)


def _read(loaded: LoadedModel, tree: ShotTree, rows: int, cache: DynamicCache | None) -> Tensor:
    """The last hidden states `[rows, T, d]`."""
    model, device = loaded.model, loaded.model.device
    floor = torch.finfo(model.dtype).min
    mask = torch.where(tree.allowed, 0.0, floor).to(device, model.dtype)[None, None]
    return model.base_model(
        input_ids=tree.ids.to(device).expand(rows, -1),
        attention_mask=mask.expand(rows, 1, -1, -1),
        position_ids=tree.positions.to(device).expand(rows, -1),
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state


def _likelihoods(loaded: LoadedModel, tree: ShotTree, hidden: Tensor) -> Tensor:
    device, rows = hidden.device, len(hidden)
    totals = torch.zeros(rows, len(tree.lengths), device=device)
    if not len(tree.lengths):
        return totals
    places, index = tree.predictors.unique(return_inverse=True)
    for row in range(rows):  # logits of one candidate at a time: places × vocabulary
        logits = head(loaded.model, hidden[row, places.to(device)])  # [P, V]
        log_p = logits[index.to(device), tree.targets.to(device)]
        log_p = log_p - logits.logsumexp(-1)[index.to(device)]  # [N]
        totals[row].index_add_(0, tree.slots.to(device), log_p)
    return totals


def _common(prompts: Sequence[Tokens]) -> int:
    """How many tokens all prompts begin with; each keeps at least one of its own."""
    shortest = min(map(len, prompts)) - 1
    same = (i for i in range(shortest) if len({prompt[i] for prompt in prompts}) > 1)
    return next(same, shortest)
