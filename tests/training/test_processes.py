import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from t2local.experts.store import read_expert
from t2local.paths import PROJECT_ROOT
from t2local.training.config import NEXT_TOKEN, SVFMethod, TrainConfig
from t2local.training.loop import Drawn, without_equal_groups
from t2local.training.policies import policy_for
from t2local.training.processes import Processes, combined
from t2local.training.rollouts import Rollout
from t2local.training.step_memory import StepWork
from tests.training.conftest import accumulate

TRAIN = [
    "t2local",
    "train",
    "--reward",
    "length",
    "--steps",
    "3",
    "--prompts-per-step",
    "5",
    "--samples-per-prompt",
    "4",
    "--max-new-tokens",
    "30",
    "--learning-rate",
    "0.02",
    "--validate-every",
    "2",
    "--seed",
    "5",  # of which a checkpoint is better than the base, and prompts are drawn again
    "--name",
    "many",
    "--json",
]
TWO = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_cover_a_batch_without_overlap(count):
    rows = list(range(5))
    shares = [Processes(rank, count).share(rows) for rank in range(count)]
    assert [i for share in shares for i in share] == rows
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(kl_coefficient=0.1),
        TrainConfig(objective=NEXT_TOKEN, kl_coefficient=0.1),
        TrainConfig(samples_per_prompt=4, max_new_tokens=12, kl_coefficient=0.1),
    ],
    ids=["choice", "next-token", "text"],
)
def test_shares_add_up_to_the_whole_batch(loaded, svf, colours, texts, config):
    """Gradient and statistics of two shares, weighted, are those of the batch in one piece."""
    rows, reward = (texts[:5], "contains") if config.samples_per_prompt == 4 else (colours, "exact")
    method = SVFMethod(loaded, svf)

    def gradient(share):
        flat = method.start().requires_grad_()
        policy = policy_for(loaded, svf, rows, reward, config)
        work = StepWork(1, method.holding(flat), places=share, total=len(rows))
        return accumulate(policy, [rows[i] for i in share], work, seed=1), flat.grad

    whole, expected = gradient(range(len(rows)))
    parts = [gradient(Processes(rank, 2).share(rows)) for rank in range(2)]
    together = combined([batch for batch, _ in parts])
    found = sum(g * batch.weight / together.weight for batch, g in parts)
    assert torch.allclose(found, expected, atol=1e-6)
    assert together.reward_mean == pytest.approx(whole.reward_mean, abs=1e-6)
    if config.objective != NEXT_TOKEN:  # which has no rewards to spread
        assert together.reward_sd == pytest.approx(whole.reward_sd, abs=1e-6)
    assert (together.tokens, together.weight) == (whole.tokens, whole.weight)


@dataclass(frozen=True)
class Threads(Processes):
    """Processes that are threads and share what they gather."""

    shared: dict = field(default_factory=dict)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def gather(self, values):
        self.shared[self.rank] = values
        self.barrier.wait(timeout=5)
        whole = [value for rank in range(self.count) for value in self.shared[rank]]
        self.barrier.wait(timeout=5)
        return whole


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_prompts_are_drawn_again_alike_however_many_processes_there_are(count):
    """Also by processes without a share, while others have one."""
    batch, spare = [3, 4, 5, 6, 7], [10, 11, 12, 13]

    def part(rank, of, shared, barrier):
        places = Threads(rank, of).share(batch)

        def draw(own, work, drawing=0):
            """Most examples earn the same; which does not, place and drawing have a say in."""
            pairs = list(zip(own, work.places, strict=True))
            rewards = [[1.0, 1.0 if (i + 2 * p + drawing) % 4 else 0.0] for i, p in pairs]
            texts = [(f"{i} at {p} in {drawing}",) * 2 for i, p in pairs]
            return Drawn.of(own, Rollout(own, texts, [[[1], [1]] for _ in own]), rewards)

        work = StepWork(1, nullcontext, places=places, total=len(batch))
        first = draw([batch[i] for i in places], work)
        processes = Threads(rank, of, shared, barrier)
        return without_equal_groups(first, spare, draw, work, processes)

    one = part(0, 1, {}, threading.Barrier(1))
    shared, barrier = {}, threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        drawn = list(pool.map(lambda rank: part(rank, count, shared, barrier), range(count)))
    assert [said for d in drawn for said in d.rollout.texts] == one.rollout.texts
    assert sorted(tried for d in drawn for tried in d.tried) == sorted(one.tried)
    assert len(one.tried) == len(batch) + len(spare)  # not more
    assert len(one.equal) < len(batch)


def _train(launcher, home, arguments):
    environment = {**os.environ, "T2LOCAL_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *TRAIN, *arguments],
        env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = done.stdout.splitlines()  # one process alone reports
    return json.loads(line)


@pytest.mark.timeout(240)
def test_two_processes_train_what_one_would_have(tiny_folder, tmp_path):
    data = tmp_path / "words.jsonl"
    rows = [{"prompt": f"Say something, {i}.", "answer": "3-5"} for i in range(16)]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = ["--data", str(data), "--model", str(tiny_folder())]
    one = _train([], tmp_path / "one", arguments)
    launcher = ["accelerate.commands.launch", *TWO.split(), "-m"]
    two = _train(launcher, tmp_path / "two", arguments)
    z, other = read_expert(Path(one["expert"])).z, read_expert(Path(two["expert"])).z
    assert max(float((z[n] - 1).abs().max()) for n in z) > 0.01
    assert all(torch.allclose(z[n], other[n], atol=1e-4) for n in z)
    assert two["reward_curve"] == pytest.approx(one["reward_curve"], abs=1e-5)
    assert two["held_out"] == one["held_out"]
    folder = tmp_path / "two" / "runs" / two["run"]
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [e["batch"] for e in events if e["event"] == "StepReport"]
    assert len(steps) == 3  # written once, by one process
    assert any(batch["drawn_again"] for batch in steps)
