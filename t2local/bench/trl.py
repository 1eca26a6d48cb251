"""The same training step by TRL's trainer with PEFT LoRA, the tools people use today.

`GRPOTrainer` without KL, without scaling by the group's spread and with one update a batch is
REINFORCE with a group baseline: its advantage is our leave-one-out one times (K − 1) / K. TRL's
`RLOOTrainer` has exactly ours, but reads every sample once more for its old log-probabilities, so
it does more work and would flatter us. What is trained: LoRA rank 16 on all linear layers (the
paper's Table 6). TRL's defaults of bf16 and gradient checkpointing are off, as in our step; it
writes no checkpoint, and we do. Meant for a process of its own.
"""

import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise

from t2local.bench.training_step import REWARD, Workload, endless, workload
from t2local.models.fit.memory import peak_memory_bytes
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.tasks.rewards import REWARDS
from t2local.training.config import TrainConfig

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
        return f"not measured: {missing[0]} is missing; pip install -r requirements-dev.txt"
    if quantization != "none":
        return f"not measured: it is for float models, and this one is {quantization}"
    return None


def peer_step_cost(
    source: str, sequences: int, sequence_tokens: int, rows_per_forward: int, steps: int
) -> PeerCost:
    """The median of `steps` steps after one to warm up, of a float model.

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
