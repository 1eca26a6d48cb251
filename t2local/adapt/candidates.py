"""How well each candidate mixture does on a few shots, the whole population in batches.

A row of a batch has its own `z`, composed from α by one small product a matrix: no weight is
rebuilt. Choices are ranked by `Σ log p / √tokens`, as in training; free text is written greedily
and rewarded. The log-likelihood is that of the right choice among the choices, or of the answer's
tokens (their mean). Of two whole answers, one of them preferred, it counts how both moved from the
base model's likelihoods (`answering.risen`). Shots and their answers are read as trees, in one
forward for all candidates.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from t2local.adapt.answering import (
    BETA,
    CHOICE,
    action_of,
    are_preferences,
    check_sees,
    choice_ids,
    choices_of,
    prompt_ids,
    risen,
    sound,
    write,
)
from t2local.adapt.cem import EXPERT, LAYERS, z_rows
from t2local.errors import T2LocalError
from t2local.models.decode.generate import Batch, padded
from t2local.models.decode.scoring import head
from t2local.models.fit.memory import free_bytes
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken
from t2local.svf import SVFModel, Z
from t2local.svf.basis import depth_of
from t2local.svf.model import FactoredModel
from t2local.tasks.rewards import check_reward, rewards_of
from t2local.tasks.rows import Example

TREE_TOKENS = 320  # of one row: a longer one spends more on attention than it shares
TOKENS_PER_FORWARD = 4096  # rows × tokens of one forward, at most
GENERATED_ROWS = 160  # rows that write at once, at most
MEMORY_SHARE = 0.3  # of the free memory that a forward may take
LAYER_GROUPS = 3

Tokens = Sequence[int]


@dataclass(frozen=True)
class Scores:
    """Means over the shots, `[B]` each; `accuracy`: the share with full reward."""

    accuracy: Tensor
    log_likelihood: Tensor


class Candidates:
    """The experts a mixture may draw on, with α `[B, G, K]` shared as the configuration says.

    `factored`: what puts rows of z in force, where there is something faster than the branch.
    """

    def __init__(
        self,
        svf: SVFModel,
        experts: Mapping[str, Z],
        sharing: str,
        factored: FactoredModel | None = None,
    ) -> None:
        if not experts:
            raise T2LocalError("There is no expert to mix for this model; train one first.")
        self.svf, self.names = svf, tuple(experts)
        self._force = factored or svf
        self.groups = groups_of(svf.matrix_names, sharing)
        self.n_groups = 1 + max(self.groups.values())
        sigma = svf.singular_values
        self._changes = {
            name: torch.stack(
                [
                    z[name].to(sigma[name]) - 1 if name in z else torch.zeros_like(sigma[name])
                    for z in experts.values()
                ]
            )
            for name in svf.matrix_names
            if any(name in z for z in experts.values())
        }  # matrix -> [K, r]

    def using(self, alpha: Tensor) -> AbstractContextManager:
        """Candidates `alpha` `[B, G, K]` in force, a row each."""
        return self.using_z(self.z(alpha))

    def using_z(self, z: Z) -> AbstractContextManager:
        """Rows from `z`, in force."""
        return self._force.using(z)

    def z(self, alpha: Tensor) -> Z:
        """A row of multipliers `[B, r]` a matrix, of candidates `alpha` `[B, G, K]`."""
        return {n: z_rows(alpha[:, self.groups[n]], c) for n, c in self._changes.items()}


def groups_of(matrix_names: Sequence[str], sharing: str) -> dict[str, int]:
    """Matrix name -> the group whose α it obeys."""
    if sharing == EXPERT:
        return dict.fromkeys(matrix_names, 0)
    if sharing == LAYERS:
        depths = [depth_of(name) or 0 for name in matrix_names]
        layers = 1 + max(depths)
        thirds = [LAYER_GROUPS * depth // layers for depth in depths]
        order = sorted(set(thirds))
        return {n: order.index(t) for n, t in zip(matrix_names, thirds, strict=True)}
    return {name: i for i, name in enumerate(matrix_names)}


# --- Shots and their answers as trees, read in one forward for all candidates.
#
# A row is one candidate: the tokens that all shots begin with once, then every shot, then each of
# its answers without their last token; each branch sees only what leads to it. Rows differ in their
# `z` alone, so there is no padding, and logits are computed once for each place that predicts.


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


# --- Their scores.


class ShotScorer:
    """Scores candidates on `shots`; every forward is bounded in memory. `T2LocalError`."""

    def __init__(
        self, loaded: LoadedModel, shots: Sequence[Example], reward: str, max_new_tokens: int
    ) -> None:
        check_reward(reward, shots)
        self.loaded, self.shots, self.reward = loaded, tuple(shots), reward
        self.max_new_tokens = max_new_tokens
        self.chooses, self.prefers = action_of(shots) == CHOICE, are_preferences(shots)
        self._of_base: dict[int, Tensor] = {}  # a tree's first shot -> its totals
        check_sees(loaded, shots)
        self.prompts = [prompt_ids(loaded, shot) for shot in shots]
        self._check_lengths()
        self._answers = [_answers(loaded, shot, self.chooses) for shot in shots]
        self._rewards = [self._reward_of(i, texts) for i, (texts, _) in enumerate(self._answers)]
        if self.chooses and not any(r >= 1 for row in self._rewards for r in row):
            raise T2LocalError(
                f"None of the shots has a choice that the reward '{reward}' counts as right; "
                "check the answers, or choose another reward."
            )
        self.trees = list(self._planted())

    def scores(
        self, candidates: Candidates, alpha: Tensor, cancel: CancelToken | None = None
    ) -> Scores:
        """Of candidates `alpha` `[B, G, K]`. Raises `Cancelled` between forwards."""
        right = torch.zeros(len(alpha), len(self.shots))
        likelihood = torch.zeros(len(alpha), len(self.shots))
        for places, tree in self.trees:
            if self.prefers:
                self._ask_base(candidates, alpha, places, tree)
            for rows in self._parts(tree, len(alpha)):
                if cancel is not None:
                    cancel.raise_if_cancelled()
                part = alpha[rows]
                if self.chooses:
                    with candidates.using(part):
                        totals = answer_log_likelihoods(self.loaded, tree, len(part)).cpu()
                else:
                    totals, right[rows, places] = self._write(
                        candidates, part, tree, places, cancel
                    )
                self._note(tree, places, totals, right[rows], likelihood[rows])
        return Scores(right.mean(1), likelihood.mean(1))

    def _parts(self, tree: ShotTree, total: int) -> list[slice]:
        """Candidates that are read, or written, together."""
        size = self._rows(tree.tokens)
        if not self.chooses:
            longest = max(map(len, tree.prompts)) + self.max_new_tokens
            rows = min(GENERATED_ROWS, self._rows(longest, GENERATED_ROWS * longest))
            size = max(1, rows // len(tree.prompts))
        return [slice(first, min(first + size, total)) for first in range(0, total, size)]

    def _ask_base(
        self, candidates: Candidates, alpha: Tensor, places: list[int], tree: ShotTree
    ) -> None:
        if places[0] not in self._of_base:
            with candidates.using(torch.zeros_like(alpha[:1])):
                totals = answer_log_likelihoods(self.loaded, tree, 1)
            self._of_base[places[0]] = totals[0].cpu()

    def _note(self, tree: ShotTree, places: list[int], totals: Tensor, right, likelihood) -> None:
        """Write what `totals` `[b, A]` say into the columns `places` of `[b, S]` each."""
        base = self._of_base.get(places[0])
        scored = totals / tree.lengths.sqrt() if base is None else totals - base  # [b, A]
        column = 0
        for place in places:
            rewards = self._rewards[place]
            lengths = tree.lengths[column : column + len(rewards)]
            part, column = scored[:, column : column + len(rewards)], column + len(rewards)
            if self.prefers:
                chosen, likelihood[:, place] = _preferred(part, rewards, int(lengths.max()))
            else:
                chosen, likelihood[:, place] = _shot_scores(part, rewards, self.chooses)
            if self.chooses:
                right[:, place] = chosen

    @torch.no_grad()
    def _write(self, candidates, alpha, tree, places, cancel) -> tuple[Tensor, Tensor]:
        """Log-likelihoods `[b, A]`, and greedy answers right or not `[b, shots of the tree]`.

        NaN where the model failed.
        """
        size, shots = self._rows(tree.tokens), len(places)
        parts = []
        for first in range(0, len(alpha), size):
            part = alpha[first : first + size]
            with candidates.using(part):
                parts.append(begin_answers(self.loaded, tree, len(part)))
        z = candidates.z(alpha)
        said = write(
            self.loaded,
            [*tree.prompts] * len(alpha),
            self.max_new_tokens,
            cancel,
            around_rows=lambda rows: candidates.using_z(
                {name: row[[r // shots for r in rows]] for name, row in z.items()}
            ),
            begun=Batch.joined([batch for _, batch in parts]),
        )
        right = torch.zeros(len(alpha), shots)
        for column, place in enumerate(places):
            answers = said[column::shots]
            rewards = torch.tensor(self._reward_of(place, [answer.text for answer in answers]))
            failed = torch.tensor([bool(answer.failed) for answer in answers])
            right[:, column] = (rewards >= 1).float().masked_fill(failed, torch.nan)
        return torch.cat([totals.cpu() for totals, _ in parts]), right

    def _planted(self) -> Iterator[tuple[list[int], ShotTree]]:
        """Shots of similar length together, as many as a row may hold."""
        places: list[int] = []
        for place in self._by_length():
            grown = self._plant([*places, place])
            if grown is not None and places and grown.tokens > TREE_TOKENS:
                yield places, self._plant(places)
                places = []
            places.append(place)
        yield places, self._plant(places)

    def _plant(self, places: list[int]) -> ShotTree:
        return plant([self.prompts[i] for i in places], [self._answers[i][1] for i in places])

    def _by_length(self) -> list[int]:
        return sorted(range(len(self.shots)), key=lambda i: (len(self.prompts[i]), i))

    def _rows(self, tokens: int, most: int = TOKENS_PER_FORWARD) -> int:
        """Rows of `tokens` tokens that one forward may read."""
        config = self.loaded.model.config.get_text_config()
        width = 8 * config.hidden_size + 4 * config.num_hidden_layers * config.hidden_size
        room = MEMORY_SHARE * free_bytes(self.loaded.device)
        fits = room / (tokens * width * self.loaded.model.dtype.itemsize)
        return max(1, int(min(most / tokens, fits)))

    def _reward_of(self, place: int, texts: Sequence[str]) -> list[float]:
        given = rewards_of(self.reward, [self.shots[place]] * len(texts), texts)
        return [0.0 if value is None else value for value in given]

    def _check_lengths(self) -> None:
        room = self.loaded.context_length - (0 if self.chooses else self.max_new_tokens)
        longest = max(map(len, self.prompts))
        if longest >= room:
            raise T2LocalError(
                f"The longest shot has {longest} tokens, but this model has room for {room}; "
                "shorten the example."
            )


def _answers(
    loaded: LoadedModel, shot: Example, chooses: bool
) -> tuple[list[str], list[list[int]]]:
    """The texts whose likelihood is looked at, and their tokens (at least one each)."""
    if chooses:
        texts, tokens = choices_of(loaded, shot)
    else:
        texts = [shot.answer] if shot.answer else []
        tokens = choice_ids(loaded, texts)
    kept = [(text, list(ids)) for text, ids in zip(texts, tokens, strict=True) if ids]
    return [text for text, _ in kept], [ids for _, ids in kept]


def _preferred(moved: Tensor, rewards: list[float], longest: int) -> tuple[Tensor, Tensor]:
    """As `_shot_scores`, of whole answers: `moved` `[b, A]` from the base model's likelihoods."""
    place = max(range(len(rewards)), key=rewards.__getitem__)
    right = torch.where(sound(moved), risen(moved, place, longest), torch.nan)
    return right, (BETA * moved).log_softmax(-1)[:, place]


def _shot_scores(scored: Tensor, rewards: list[float], chooses: bool) -> tuple[Tensor, Tensor]:
    """Right or not, and log-likelihood, `[b]` each, of one shot's answers `scored` `[b, A]`."""
    if not rewards:  # a reward such as `length` needs no answer
        return torch.zeros(len(scored)), torch.zeros(len(scored))
    if not chooses:
        return torch.zeros(len(scored)), scored[:, 0]
    good = torch.tensor(rewards) >= 1  # [A]
    if not good.any():
        return torch.zeros(len(scored)), torch.zeros(len(scored))
    right = good[scored.argmax(-1)].float()
    right = torch.where(sound(scored), right, torch.nan)
    return right, scored.log_softmax(-1)[:, good].logsumexp(-1)
