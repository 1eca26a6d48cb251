"""What a training run is told, validated once, each default with where it comes from.

The command line and the form in the page are derived from these fields.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch

from t2local.adapt.applier import holding
from t2local.errors import T2LocalError
from t2local.models.decode.compiled_steps import folding_problem
from t2local.models.decode.generate import Around, Sampling, generate_batch
from t2local.models.groups.linear import rounded_products, rounds_quickly
from t2local.models.load.loader import LoadedModel, Steps
from t2local.models.storage import GGUF
from t2local.svf import SVFModel, Z
from t2local.svf.basis import depth_of

BASELINES = ("leave-one-out", "none")
KL_ESTIMATORS = ("sampled", "full")
POLICY_GRADIENT, NEXT_TOKEN = OBJECTIVES = ("policy-gradient", "next-token")
SVF, LORA = METHODS = ("svf", "lora")
QUICK, EXACT = ROLLOUTS = ("quick", "exact")
BY_PASS_RATE, IN_TURN = PROMPT_ORDERS = ("by-pass-rate", "in-turn")
ONE_OF = {
    "method": METHODS,
    "objective": OBJECTIVES,
    "baseline": BASELINES,
    "kl_estimator": KL_ESTIMATORS,
    "rollouts": ROLLOUTS,
    "prompt_order": PROMPT_ORDERS,
}


@dataclass(frozen=True)
class TrainConfig:
    """Departures from the paper (section 3.1, Table 6) are the defaults marked so; see `paper`."""

    method: str = SVF  # paper; LoRA is its baseline
    lora_rank: int = 16  # paper, Table 6
    lora_alpha: float = 32.0  # paper, Table 6
    objective: str = POLICY_GRADIENT  # paper; next-token is its ablation (Table 4)
    steps: int = 40  # ours: where ARC-Easy stops gaining on the embedded model
    prompts_per_step: int = 8  # ours: the paper's 256 is hours a step on a laptop
    samples_per_prompt: int = 8  # ours: groups make the leave-one-out baseline; the paper has 1
    prompt_order: str = BY_PASS_RATE  # ours, of sampled text: prompts that teach come more often
    redraws: float = 1.0  # ours: other prompts for those whose samples all earn the same, at most
    # this many times the batch in a step; 0: none (dynamic sampling, DAPO, arXiv 2503.14476)
    learning_rate: float = 2e-3  # paper, Table 6
    clip: float = 1.0  # gradient norm; ours: the paper's 1e-3 goes with its batch of 256. It acts
    # at every step of free text (norms of 6.6 to 10 on the embedded model) and at some of choices
    # (0.9); after it Adam's steps are of one size anyhow, and on a tiny model 1, 0.01 and none
    # learn alike (mean reward 0.156, 0.146, 0.148, six seeds, sd 0.04)
    kl_coefficient: float = 0.0  # λ; paper: searched over 0, 0.1, 0.2, 0.3
    kl_estimator: str = "sampled"  # ours: k1 in the reward; the paper's code sums the vocabulary
    baseline: str = "leave-one-out"  # ours; the paper has none
    targets: str = "all"  # paper, Table 4: both kinds do best
    max_new_tokens: int = 96
    temperature: float = 1.0  # of the policy; ours: the repository trains on greedy answers
    rollouts: str = QUICK  # ours: by the quickest sampler there is, weighted for its rounding
    rows_per_forward: int = 4  # gradients are accumulated over slices of this many rows
    gradient_checkpointing: bool = False
    validate_every: int = 10
    patience: int = 0  # validations without a gain before stopping; 0 never stops early
    checkpoint_every: int = 5  # steps that a killed run may lose
    held_out_share: float = 0.25  # of a person's own rows: measured on, never trained on
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and value < (0 if field.name in ("patience", "seed") else 1):
                raise T2LocalError(f"Training option {field.name} is {value}; it must be positive.")
        for name in ("learning_rate", "clip", "temperature", "lora_alpha"):
            if not getattr(self, name) > 0:
                raise T2LocalError(
                    f"Training option {name} is {getattr(self, name)}; it must be above 0."
                )
        if not self.redraws >= 0:
            raise T2LocalError(
                f"Training option redraws is {self.redraws}; it must be 0 (none) or above."
            )
        if not 0 < self.held_out_share < 1:
            raise T2LocalError(
                f"Training option held_out_share is {self.held_out_share}; "
                "it must be above 0 and below 1."
            )
        for name, known in ONE_OF.items():
            if (value := getattr(self, name)) not in known:
                raise T2LocalError(
                    f"Training option {name} is '{value}'; choose {' or '.join(known)}."
                )
        if self.baseline == "leave-one-out" and self.samples_per_prompt < 2:
            raise T2LocalError(
                "The leave-one-out baseline needs at least 2 samples a prompt; "
                "raise samples_per_prompt or choose baseline none."
            )

    def paper(self) -> "TrainConfig":
        """The paper's own setting: one sample, no baseline, full KL, Table 6's batch and clip.

        Prompts come in turn, none is drawn again, and the model itself samples.
        """
        return replace(
            self,
            prompts_per_step=256,
            samples_per_prompt=1,
            learning_rate=2e-3,
            clip=1e-3,
            kl_coefficient=self.kl_coefficient or 0.1,
            kl_estimator="full",
            baseline="none",
            rollouts=EXACT,
            prompt_order=IN_TURN,
            redraws=0.0,
        )


# --- What is trained, as one flat vector, and how it is put in force around a forward.
#
# The loop, the policies and the checkpoints know only this: SVF (paper, section 3.1) trains the `z`
# of all matrices; LoRA, the paper's baseline, is in `training.lora`.


class Method(Protocol):
    """`flat`: all trained numbers `[P]`, float32. Where it asks for a gradient it receives one."""

    def start(self) -> torch.Tensor:
        """The numbers of the base model, from which training starts."""

    def holding(self, flat: torch.Tensor) -> Around:
        """How to hold `flat` over many forwards; read again after the optimiser has moved it."""

    def change(self, flat: torch.Tensor) -> Mapping[str, float]:
        """Matrix name -> how far it is from the base model's, 0 at the start."""


class SVFMethod:
    """`flat` is the `z` of all matrices `[Σr]`; `change` is the rms of `z − 1`."""

    def __init__(self, loaded: LoadedModel, svf: SVFModel) -> None:
        self.loaded, self.svf = loaded, svf

    def start(self) -> torch.Tensor:
        return torch.cat(list(self.svf.identity().values()))

    def holding(self, flat: torch.Tensor) -> Around:
        return holding(self.loaded, self.svf, self.z(flat))

    def change(self, flat: torch.Tensor) -> Mapping[str, float]:
        return {n: float((z - 1).square().mean().sqrt()) for n, z in self.z(flat).items()}

    def flat(self, z: Z) -> torch.Tensor:
        """An expert's numbers as one vector; a matrix that it does not name is the base model's."""
        start = self.svf.identity()
        return torch.cat([z.get(name, one).float().to(one.device) for name, one in start.items()])

    def z(self, flat: torch.Tensor) -> Z:
        """Views of `flat`, by matrix name."""
        rows = flat.split(list(self.svf.ranks.values()))
        return dict(zip(self.svf.matrix_names, rows, strict=True))


def method_for(loaded: LoadedModel, svf: SVFModel, config: TrainConfig) -> Method:
    """The method that the configuration names."""
    if config.method == LORA:
        from t2local.training.lora import LoRAMethod  # PEFT alone takes 60 MB of memory

        return LoRAMethod(loaded, svf, config.lora_rank, config.lora_alpha, config.seed)
    return SVFMethod(loaded, svf)


# --- How a step's answers are sampled.

Among = tuple[Sequence[int], int]  # places of how many: see `generate_batch`
Sampler = Callable[
    [Sequence[Sequence[int]], Sampling, Among], tuple[list[list[int]], list[list[float]]]
]
"""Prompts -> each one's completion with what ended it, and log μ of its tokens: how likely the
sampler was to draw them at the temperature it drew at. No log μ (an empty list) says that the
completions are π_z's own."""


def sampler_for(loaded: LoadedModel, config: TrainConfig, hold: Around) -> Sampler:
    """The sampler that `config.rollouts` asks for, of the numbers that `hold` puts in force.

    Quick: steps with `z` folded into rounded weights where those can be had, else the model's own;
    either way log μ is told. Exact: the model's own, and nothing has to be weighted.
    """
    steps: list[Steps] = []  # folded at the first prompts, kept for those that are drawn again

    def sample(prompts, sampling, among):
        if config.rollouts == EXACT:
            said = generate_batch(
                loaded, prompts, sampling, around=hold, keep_end=True, among=among
            )
            return said, []
        if not steps:
            steps.append(_folded_steps(loaded, hold))
        log_mu: list[list[float]] = []
        said = generate_batch(
            replace(loaded, steps=steps[0]), prompts, sampling,
            around=hold, keep_end=True, among=among, log_mu=log_mu,
        )  # fmt: skip
        return said, log_mu

    return sample


def _folded_steps(loaded: LoadedModel, hold: Around) -> Steps | None:
    if loaded.steps is None or folding_problem(loaded.model):
        return loaded.steps
    with hold():
        deltas = loaded.steps.deltas
        return loaded.steps if deltas is None else loaded.steps.folded(deltas)


def gradient_holding(loaded: LoadedModel, config: TrainConfig, hold: Around) -> Around:
    """What a step's gradient is taken under: `hold`, with products that round where that is quick.

    Only for weights of few bits, on processors that multiply bfloat16, and not with exact rollouts:
    the rounding is a part of the gap that every step reports and weights for.
    """
    if loaded.quantization != GGUF or config.rollouts == EXACT or not rounds_quickly():
        return hold

    @contextmanager
    def rounded() -> Iterator[None]:
        with hold(), rounded_products():
            yield

    return rounded


MOST_WEIGHT = 2.0  # of a token; Yao et al. 2025 truncate at it


def token_weights(log_probs: torch.Tensor, log_mu: torch.Tensor) -> torch.Tensor:
    """`min(π / μ, 2)` a token `[N]`: truncated importance weights of what μ sampled (Ionides 2008).

    A token each, not an answer: the product over an answer of T tokens spreads exponentially in T,
    and one rare answer would outweigh the batch. What a token's own ratio leaves out, that earlier
    tokens were more or less likely too, is a bias of the size of the sampler's gap, which every
    step reports; so does the truncation, and it bounds the variance.
    """
    return (log_probs - log_mu).exp().clamp(max=MOST_WEIGHT)


def change_by_layer(change: Mapping[str, float]) -> tuple[float, ...]:
    """Root mean square over the matrices of each layer, in order."""
    layers: dict[int, list[float]] = defaultdict(list)
    for name, size in change.items():
        layers[depth_of(name)].append(size)
    return tuple(_rms(layers[depth]) for depth in sorted(layers))


def overall_change(change: Mapping[str, float]) -> float:
    """Root mean square over all matrices."""
    return _rms(list(change.values()))


def _rms(values: list[float]) -> float:
    return (sum(v * v for v in values) / len(values)) ** 0.5
