"""Log-likelihoods of given texts: the one forward behind choices, labels and training.

All choices of a prompt share one row: the prompt once, then every choice, each seeing the prompt
and itself only (a tree mask). Logits are computed where they are needed, in chunks whose
intermediate values are computed again in the backward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from t2local.errors import T2LocalError
from t2local.models.groups.linear import GroupedLinear
from t2local.models.groups.linear import log_probabilities as grouped_log_probabilities

CHUNK_POSITIONS = 32  # positions × vocabulary × 4 bytes: 6 MB for 49,152 entries, some copies of it


@dataclass(frozen=True)
class PackedChoices:
    """Rows of prompt and choices: what one forward reads.

    `input_ids`, `position_ids` `[B, T]`; `allowed` `[B, T, T]` bool, True where a query (second
    axis) sees a key (third); `first`: the column where choices start. `owner`, `[B, T - first]`:
    the choice a token belongs to, −1 for padding; `predictor`, the same shape: the column, counted
    from `first − 1`, whose logits predict it.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    allowed: torch.Tensor
    first: int
    owner: torch.Tensor
    predictor: torch.Tensor


def pack_choices(
    prompts: Sequence[Sequence[int]], choices: Sequence[Sequence[Sequence[int]]], pad_id: int
) -> PackedChoices:
    """Lay out each prompt (padded on the left) with all its choices behind it."""
    first = max(len(prompt) for prompt in prompts)
    width = first + max(sum(len(c) for c in row) for row in choices)
    rows = len(prompts)
    input_ids = torch.full((rows, width), pad_id)
    position_ids = torch.zeros((rows, width), dtype=torch.long)
    group = torch.full((rows, width), -2)  # −2 padding, −1 prompt, k the k-th choice
    predictor = torch.zeros((rows, width - first), dtype=torch.long)
    for b, (prompt, row) in enumerate(zip(prompts, choices, strict=True)):
        start = first - len(prompt)
        input_ids[b, start:first] = torch.tensor(prompt)
        position_ids[b, start:first] = torch.arange(len(prompt))
        group[b, start:first] = -1
        column = first
        for k, choice in enumerate(row):
            end = column + len(choice)
            input_ids[b, column:end] = torch.tensor(choice)
            position_ids[b, column:end] = len(prompt) + torch.arange(len(choice))
            group[b, column:end] = k
            steps = torch.arange(column - first, end - first)  # the column before each token
            steps[0] = 0  # the first token of every choice comes after the prompt's last
            predictor[b, column - first : end - first] = steps
            column = end
    query, key = group[:, :, None], group[:, None, :]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    allowed = causal & (query != -2) & (key != -2) & ((key == -1) | (key == query))
    allowed = allowed | torch.eye(width, dtype=torch.bool)  # padding sees itself: no NaN
    owner = group[:, first:].clamp(min=-1)
    return PackedChoices(input_ids, position_ids, allowed, first, owner, predictor)


def choice_log_likelihoods(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    pad_id: int = 0,
) -> list[torch.Tensor]:
    """For each prompt a `[K]` float32 tensor: Σ log p of the tokens of each of its K choices."""
    packed = pack_choices(prompts, choices, pad_id)
    states, targets, slots = predictor_states(model, packed)
    counts = [len(row) for row in choices]
    totals = torch.zeros(sum(counts), device=states.device)
    totals = totals.index_add(0, slots, log_probabilities(model, states, targets))
    return list(totals.split(counts))


def predictor_states(
    model: PreTrainedModel, packed: PackedChoices
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The hidden state that predicts each choice token, `[N, d]`, the token `[N]`, its slot `[N]`.

    Slots count the choices of all rows in order: the k-th choice of row b has the number of choices
    before row b, plus k.
    """
    _check_window(model, packed)
    device = model.device
    floor = torch.finfo(model.dtype).min
    mask = torch.where(packed.allowed, 0.0, floor).to(device, model.dtype)[:, None]  # [B, 1, T, T]
    hidden = model.base_model(
        input_ids=packed.input_ids.to(device),
        attention_mask=mask,
        position_ids=packed.position_ids.to(device),
        use_cache=False,
    ).last_hidden_state[:, packed.first - 1 :]  # [B, 1 + choice tokens, d]
    rows, columns = (packed.owner >= 0).nonzero(as_tuple=True)  # [N], choice tokens
    states = hidden[rows.to(device), packed.predictor[rows, columns].to(device)]
    targets = packed.input_ids[rows, packed.first + columns].to(device)
    counts = packed.owner.amax(dim=1) + 1  # [B], choices a row
    slots = (counts.cumsum(0) - counts)[rows] + packed.owner[rows, columns]
    return states, targets, slots.to(device)


def _check_window(model: PreTrainedModel, packed: PackedChoices) -> None:
    """A tree mask replaces a sliding window, so nothing may be longer than the window."""
    config, longest = model.config.get_text_config(), int(packed.position_ids.max()) + 1
    window = getattr(config, "sliding_window", None)  # None: every token sees all before it
    if window is not None and longest > window:
        raise T2LocalError(
            f"A prompt with its answer has {longest} tokens, more than the {window} that this "
            "model's attention window holds; shorten the example."
        )


def choice_scores(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    pad_id: int = 0,
) -> list[torch.Tensor]:
    """Length-normalised log-likelihoods `Σ log p / √tokens`, a `[K]` tensor a prompt.

    The square root lies between no normalisation (prefers short choices) and the mean (prefers
    long ones); the policy over the choices is the softmax of these scores.
    """
    totals = choice_log_likelihoods(model, prompts, choices, pad_id)
    lengths = [torch.tensor([float(len(c)) for c in row]) for row in choices]
    return [t / n.to(t.device).sqrt() for t, n in zip(totals, lengths, strict=True)]


def head(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Float32 logits `[N, vocabulary]` of hidden states `[N, d]`."""
    logits = model.get_output_embeddings()(hidden).float()
    cap = _softcap(model)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _softcap(model: PreTrainedModel) -> float | None:
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)  # Gemma 2


def log_probabilities(
    model: PreTrainedModel,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """log p `[N]` of `targets` `[N]` after the states `hidden` `[N, d]`, some at a time.

    `temperature`: that of the distribution, as in sampling.
    """
    last = model.get_output_embeddings()
    if isinstance(last, GroupedLinear) and _softcap(model) is None:
        return grouped_log_probabilities(hidden, targets, last, temperature)

    def chunk(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return -F.cross_entropy(head(model, states) / temperature, wanted, reduction="none")

    return _chunked(chunk, hidden, targets)


def log_probabilities_and_kl(
    model: PreTrainedModel,
    hidden: torch.Tensor,
    base_hidden: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `log_probabilities`, with KL(π_z ‖ π_base) `[N]` over the whole vocabulary."""

    def chunk(states: torch.Tensor, base: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        log_policy = F.log_softmax(head(model, states) / temperature, dim=-1)  # [N, vocabulary]
        log_base = F.log_softmax(head(model, base) / temperature, dim=-1)
        kl = (log_policy.exp() * (log_policy - log_base)).sum(dim=-1)
        return torch.stack([log_policy.gather(1, wanted[:, None])[:, 0], kl])

    log_probs, kl = _chunked(chunk, hidden, base_hidden, targets)
    return log_probs, kl


def _chunked(function, *tensors: torch.Tensor) -> torch.Tensor:
    """`function` over slices of the tensors' first axis; its intermediates are not kept."""
    pieces = [
        checkpoint(function, *(t[i : i + CHUNK_POSITIONS] for t in tensors), use_reentrant=False)
        for i in range(0, tensors[0].shape[0], CHUNK_POSITIONS)
    ]
    return torch.cat(pieces, dim=-1)
