"""How long a chat waits for the model while a run trains: at most one micro-batch.

A real run in a thread; the chat's part is to ask for the model's lock at random moments, which is
all that stands between a message and its first token. Knows nothing of how the numbers are shown.
"""

import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken
from t2local.svf import SVFModel
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig
from t2local.training.loop import train
from t2local.training.reports import StepReport

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
