"""How well each candidate mixture does on a few shots, the whole population in batches.

A row of a batch has its own `z`, composed from α by one small product a matrix: no weight is
rebuilt. Choices are ranked by `Σ log p / √tokens`, as in training; free text is written
(`adapt.answering`) and rewarded. The log-likelihood is that of the right choice among the choices,
or of the answer's tokens (their mean). Departure from answering under one mixture at a time: shots
and their answers are read as trees (`adapt.shot_trees`), once for all that a candidate needs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from t2local.adapt.answering import (
    CHOICE,
    action_of,
    check_sees,
    choice_ids,
    prompt_ids,
    sound,
    write,
)
from t2local.adapt.cem import EXPERT, LAYERS, z_rows
from t2local.adapt.shot_trees import ShotTree, answer_log_likelihoods, begin_answers, plant
from t2local.errors import T2LocalError
from t2local.models.decode.generate import Batch
from t2local.models.fit.memory import free_bytes
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken
from t2local.svf import SVFModel, Z
from t2local.svf.factored import FactoredModel
from t2local.svf.targets import depth_of
from t2local.tasks.rewards.named import check_reward, rewards_of
from t2local.tasks.rows import Example

TREE_TOKENS = 320  # of one row: a longer one spends more on attention than it shares
TOKENS_PER_FORWARD = 4096  # rows × tokens of one forward, at most
GENERATED_ROWS = 160  # rows that write at once, at most
MEMORY_SHARE = 0.3  # of the free memory that a forward may take
LAYER_GROUPS = 3


@dataclass(frozen=True)
class Scores:
    """Means over the shots, `[B]` each; `accuracy`: the share with full reward."""

    accuracy: Tensor
    log_likelihood: Tensor

    @classmethod
    def joined(cls, parts: Sequence["Scores"]) -> "Scores":
        columns = ([p.accuracy for p in parts], [p.log_likelihood for p in parts])
        return cls(torch.cat(columns[0]), torch.cat(columns[1]))


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


class ShotScorer:
    """Scores candidates on `shots`; every forward is bounded in memory. `T2LocalError`."""

    def __init__(
        self, loaded: LoadedModel, shots: Sequence[Example], reward: str, max_new_tokens: int
    ) -> None:
        check_reward(reward, shots)
        self.loaded, self.shots, self.reward = loaded, tuple(shots), reward
        self.max_new_tokens = max_new_tokens
        self.chooses = action_of(shots) == CHOICE
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

    def _note(self, tree: ShotTree, places: list[int], totals: Tensor, right, likelihood) -> None:
        """Write what `totals` `[b, A]` say into the columns `places` of `[b, S]` each."""
        scored = totals / tree.lengths.sqrt()  # [b, A]
        column = 0
        for place in places:
            rewards = self._rewards[place]
            part, column = scored[:, column : column + len(rewards)], column + len(rewards)
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
    texts = list(shot.columns["choices"]) if chooses else [shot.answer] if shot.answer else []
    tokens = choice_ids(loaded, texts)
    kept = [(text, ids) for text, ids in zip(texts, tokens, strict=True) if ids]
    return [text for text, _ in kept], [ids for _, ids in kept]


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
