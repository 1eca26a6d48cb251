"""A step's cost: exact lengths, whole turns, and nothing left behind in the model."""

import pytest
import torch

from t2local.bench.training_step import (
    GROUP,
    StepCost,
    cost_of_steps,
    endless,
    waits_while_training,
    workload,
)
from t2local.models.decode.generate import Sampling, generate_batch
from t2local.svf import attach


@pytest.fixture
def loaded(tiny_loaded):
    return tiny_loaded("llama")


@pytest.fixture
def svf(loaded):
    return attach(loaded.model)


def test_a_workload_is_full_to_the_last_token(loaded):
    work = workload(loaded, sequences=2 * GROUP, sequence_tokens=150, rows_per_forward=4)
    assert len(work.questions) * work.samples_per_prompt == 2 * GROUP
    assert work.prompt_tokens + work.completion_tokens == 150
    assert work.tokens == 2 * GROUP * 150


def test_endless_answers_have_all_their_tokens_and_may_end_again_afterwards(loaded):
    head = loaded.model.get_output_embeddings()
    stop = loaded.tokenizer.eos_token_id
    head.bias = torch.nn.Parameter(torch.zeros(len(head.weight)), requires_grad=False)
    head.bias[stop] = 50.0  # a model that says nothing else
    own, sampling = head.bias, Sampling(temperature=1.0, max_new_tokens=12, seed=1)
    assert generate_batch(loaded, [[5, 6]] * 3, sampling) == [[], [], []]
    with endless(loaded):
        said = generate_batch(loaded, [[5, 6]] * 3, sampling)
    assert [len(row) for row in said] == [12] * 3
    assert head.bias is own


def test_whole_turns_of_the_loop_are_measured(loaded, svf):
    work = workload(loaded, sequences=2, sequence_tokens=100, rows_per_forward=2)
    cost = cost_of_steps(loaded, svf, work, steps=2)
    assert cost.tokens == 200
    assert cost.seconds.keys() == {"sampling", "forward", "backward"}
    assert cost.wall_s > cost.total_s  # optimiser, report and files come on top
    assert loaded.model.get_output_embeddings().bias is None


def test_what_processes_send_is_the_gradient_and_a_few_statistics(loaded, svf):
    work = workload(loaded, sequences=2, sequence_tokens=100, rows_per_forward=2)
    gradient = 4 * sum(svf.ranks.values())
    assert gradient < cost_of_steps(loaded, svf, work, steps=1).sent_bytes < gradient + 2000


def test_overhead_is_what_comes_on_top_of_the_stages():
    cost = StepCost("none", 1, 1, 21.0, {"sampling": 10.0, "forward": 6.0, "backward": 4.0}, 1, 0.0)
    assert cost.overhead == pytest.approx(0.05)


# --- How long a chat waits while a run trains.


def test_a_chat_gets_the_model_again_and_again_while_a_run_trains(loaded, svf):
    waits = waits_while_training(loaded, svf, rounds=10)
    assert len(waits.waits_s) == 10
    assert waits.micro_batch_s > 0
    # Seconds are for the bench; here only that nobody starves: a step is four micro-batches' time.
    assert sorted(waits.waits_s)[5] < 4 * waits.micro_batch_s
