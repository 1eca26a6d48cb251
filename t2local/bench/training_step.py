"""What one training step costs, beside TRL's trainer, and how long a chat waits while a run trains.

REINFORCE on free text with sequences of an exact length, as whole turns of the real loop, meant for
a process of its own, whose peak of memory is then the step's. The wait is taken beside a real run.
"""

import pickle
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice, pairwise
from pathlib import Path

import torch
from torch import nn

from t2local.adapt.answering import prompt_ids
from t2local.adapt.applier import adapting
from t2local.models.chat_format import stop_tokens
from t2local.models.fit.memory import peak_memory_bytes
from t2local.models.load.loader import LoadedModel, load_model
from t2local.models.storage import GGUF, NONE
from t2local.progress import CancelToken, drain
from t2local.svf import SVFModel
from t2local.tasks.rewards import REWARDS
from t2local.tasks.rows import Example
from t2local.training.config import QUICK, SVFMethod, TrainConfig
from t2local.training.loop import train
from t2local.training.reports import BatchStatistics, Checkpoint, StepReport, TrainState
from t2local.training.runs import Run

GROUP = 8  # samples a prompt
QUESTIONS = ("Tell me a long story about the sea.", "Tell me a long story about a town.")
REWARD = "length"
FORBIDDEN = -1e4  # added to a logit: never sampled, and finite


@dataclass(frozen=True)
class Workload:
    """What a step works on: the same for whoever is measured.

    `prompt_tokens`: of the longest prompt; every completion has `completion_tokens`.
    """

    questions: tuple[str, ...]
    samples_per_prompt: int
    prompt_tokens: int
    completion_tokens: int
    rows_per_forward: int

    @property
    def tokens(self) -> int:
        """Those of all sequences, prompt and completion together."""
        rows = len(self.questions) * self.samples_per_prompt
        return rows * (self.prompt_tokens + self.completion_tokens)

    def examples(self) -> list[Example]:
        """Answers in half as many words as there are tokens earn most: rewards that differ."""
        return [Example(q, str(max(1, self.completion_tokens // 2))) for q in self.questions]


@dataclass(frozen=True)
class StepCost:
    """Of the median step. `seconds`: keys sampling, forward, backward; `wall_s`: the whole turn.

    `tokens`: those of the whole sequences. `sent_bytes`: what each of several processes hands over
    in a step, the gradient and its statistics. `sampler_gap`: between the log-probabilities of the
    steps that answers were sampled from and of those that the gradient was taken of, nats a token.
    """

    quantization: str
    peak_memory_bytes: int
    tokens: int
    wall_s: float
    seconds: Mapping[str, float]
    sent_bytes: int
    sampler_gap: float

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def overhead(self) -> float:
        """What the turn takes beyond sampling, forward and backward, as a share of these."""
        return self.wall_s / self.total_s - 1.0


def step_cost(
    source: str,
    quantization: str,
    basis: str,
    sequences: int,
    sequence_tokens: int,
    rows_per_forward: int,
    steps: int,
    rollouts: str = QUICK,
) -> StepCost:
    """The median of `steps` steps after one to warm up; a step is `sequences` × `sequence_tokens`.

    Raises `T2LocalError` when the model cannot be loaded.
    """
    loaded = drain(load_model(source, quantization))
    loaded, svf = drain(adapting(loaded, "all", basis))
    work = workload(loaded, sequences, sequence_tokens, rows_per_forward)
    return cost_of_steps(loaded, svf, work, steps, rollouts)


def workload(
    loaded: LoadedModel, sequences: int, sequence_tokens: int, rows_per_forward: int
) -> Workload:
    """`sequences` rows of `sequence_tokens` tokens, prompt and completion together."""
    questions = QUESTIONS[: max(1, sequences // GROUP)]
    longest = max(len(prompt_ids(loaded, Example(q, ""))) for q in questions)
    new_tokens = max(1, sequence_tokens - longest)
    return Workload(questions, sequences // len(questions), longest, new_tokens, rows_per_forward)


def cost_of_steps(
    loaded: LoadedModel, svf: SVFModel, work: Workload, steps: int, rollouts: str = QUICK
) -> StepCost:
    """As `step_cost`, on a model that is there. Turns without a validation are measured."""
    config = TrainConfig(
        steps=steps + 2,  # the first warms up; the last one validates and is never taken
        prompts_per_step=len(work.questions),
        samples_per_prompt=work.samples_per_prompt,
        max_new_tokens=work.completion_tokens,
        baseline="none",  # every answer is read, also where all earn the same
        redraws=0.0,
        rollouts=rollouts,
        rows_per_forward=work.rows_per_forward,
        validate_every=steps + 2,
        checkpoint_every=1,
    )
    start = TrainState.start(SVFMethod(loaded, svf).start(), config.rows_per_forward)
    examples = work.examples()
    with tempfile.TemporaryDirectory() as folder, endless(loaded):
        events = train(loaded, svf, examples, examples[:1], REWARD, config, state=start)
        with closing(events):
            turns = list(islice(_turns(events, Run(Path(folder))), steps))
    wall_s, batch = sorted(turns, key=lambda turn: turn[0])[len(turns) // 2]
    sent_bytes = start.flat.numel() * start.flat.element_size() + len(pickle.dumps(batch))
    return StepCost(
        loaded.quantization, peak_memory_bytes(), work.tokens, wall_s, batch.seconds, sent_bytes,
        batch.sampler_gap,
    )  # fmt: skip


def _turns(events: Iterator, run: Run) -> Iterator[tuple[float, BatchStatistics]]:
    """Seconds and statistics of each step but the first, all of it written down."""
    ended = None
    for event in events:
        run.record(event)
        if isinstance(event, StepReport):
            batch = event.batch
        if isinstance(event, Checkpoint):
            before, ended = ended, time.perf_counter()
            if before is not None:
                yield ended - before, batch


@contextmanager
def endless(loaded: LoadedModel) -> Iterator[None]:
    """Inside, no answer ends before its last token: the head's bias forbids all stop tokens."""
    head = loaded.model.get_output_embeddings()
    before = head.bias
    size = head.weight.shape[0]
    bias = torch.zeros(size, dtype=loaded.model.dtype, device=loaded.model.device)
    if before is not None:
        bias += before.detach()
    stops = stop_tokens(loaded.tokenizer, loaded.model.generation_config.eos_token_id)
    bias[list(stops)] = FORBIDDEN
    head.bias = nn.Parameter(bias, requires_grad=False)
    try:
        yield
    finally:
        head.bias = before


# --- How long a chat waits for the model while a run trains: at most one micro-batch.
#
# A real run in a thread; the chat's part is to ask for the model's lock at random moments, which
# is all that stands between a message and its first token.

CHOICES = ("billing", "delivery", "returns", "technical")
ROWS = [
    Example(
        f'Mail {number}: "My parcel has not arrived yet." Which team answers it?',
        "delivery",
        {"choices": list(CHOICES), "label": 1},
    )
    for number in range(16)
]


@dataclass(frozen=True)
class Waits:
    """`waits_s`: from asking for the model to having it; `micro_batch_s`: forward and backward."""

    waits_s: Sequence[float]
    micro_batch_s: float


def waits_while_training(loaded: LoadedModel, svf: SVFModel, rounds: int = 20) -> Waits:
    """Ask `rounds` times for the model during a run."""
    config = TrainConfig(steps=10_000, learning_rate=1e-6, validate_every=10_000)
    cancel, micro_batches, moments = CancelToken(), [], random.Random(0)
    slices = -(-config.prompts_per_step // config.rows_per_forward)

    def run() -> None:
        for event in train(loaded, svf, ROWS, ROWS[:2], "choice", config, cancel):
            if isinstance(event, StepReport):
                micro_batches.append(sum(event.batch.seconds.values()) / slices)

    thread = threading.Thread(target=run, name="train")
    thread.start()
    try:
        while thread.is_alive() and not micro_batches:
            time.sleep(0.01)
        waits = []
        for _ in range(rounds):
            time.sleep(moments.uniform(0.0, 2 * micro_batches[-1]))
            started = time.perf_counter()
            with svf.lock:
                waits.append(time.perf_counter() - started)
    finally:
        cancel.cancel()
        thread.join()
    return Waits(waits, statistics.median(micro_batches))


# --- The same training step by TRL's trainer with PEFT LoRA, the tools people use today.
#
# `GRPOTrainer` without KL, without scaling by the group's spread and with one update a batch is
# REINFORCE with a group baseline: its advantage is our leave-one-out one times (K − 1) / K. TRL's
# `RLOOTrainer` has exactly ours, but reads every sample once more for its old log-probabilities,
# so it does more work and would flatter us. What is trained: LoRA rank 16 on all linear layers
# (the paper's Table 6). TRL's defaults of bf16 and gradient checkpointing are off, as in our
# step; it writes no checkpoint, and we do. Meant for a process of its own.

NEEDED = ("trl", "datasets")


@dataclass(frozen=True)
class PeerCost:
    """`wall_s`: the median step, from the end of one to the end of the next."""

    peak_memory_bytes: int
    wall_s: float


def peer_problem(quantization: str) -> str | None:
    """Why the peer of a model loaded so cannot be measured here, None when it can."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        return f"{missing[0]} is missing; pip install -r requirements-dev.txt"
    if quantization not in (NONE, GGUF):
        return f"it is for float models and GGUF files, and this one is {quantization}"
    return None


def peer_step_cost(
    source: str, sequences: int, sequence_tokens: int, rows_per_forward: int, steps: int
) -> PeerCost:
    """The median of `steps` steps after one to warm up, of a model of floats: a GGUF's numbers too.

    Raises `T2LocalError` when the model cannot be loaded.
    """
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    from t2local.training.lora import lora_config  # PEFT takes 60 MB: not at every start

    loaded = drain(load_model(source, "none"))
    work, ours = workload(loaded, sequences, sequence_tokens, rows_per_forward), TrainConfig()
    ends: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_, **__) -> None:
            ends.append(time.perf_counter())

    def reward(completions, completion_ids, **columns) -> list[float | None]:
        assert {len(ids) for ids in completion_ids} == {work.completion_tokens}
        texts = [turns[-1]["content"] for turns in completions]
        return REWARDS[REWARD](columns["prompts"], texts, answer=columns["answer"])

    rows = [
        {"prompt": [{"role": "user", "content": e.prompt}], "answer": e.answer}
        for e in work.examples()
    ]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr), endless(loaded):
        trainer = GRPOTrainer(
            model=loaded.model,
            reward_funcs=reward,
            args=_settings(folder, work, steps + 1),
            train_dataset=Dataset.from_list(rows),
            processing_class=loaded.tokenizer,
            callbacks=[Watch()],
            peft_config=lora_config(ours.lora_rank, ours.lora_alpha, "all-linear"),
        )
        trainer.train()
    turns = sorted(end - start for start, end in pairwise(ends))
    return PeerCost(peak_memory_bytes(), turns[len(turns) // 2])


def _settings(folder: str, work: Workload, steps: int):
    from trl import GRPOConfig

    ours = TrainConfig()
    rows = len(work.questions) * work.samples_per_prompt
    return GRPOConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=min(rows, work.rows_per_forward),
        gradient_accumulation_steps=max(1, rows // work.rows_per_forward),
        num_generations=work.samples_per_prompt,
        max_completion_length=work.completion_tokens,
        beta=0.0,
        loss_type="dr_grpo",
        scale_rewards="none",
        temperature=ours.temperature,
        learning_rate=ours.learning_rate,
        weight_decay=0.0,
        max_grad_norm=ours.clip,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
