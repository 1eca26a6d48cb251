import pytest
import torch

from t2local.errors import T2LocalError
from t2local.progress import drain
from t2local.training.config import TrainConfig
from t2local.training.loop import train
from t2local.training.policies import ChoicePolicy
from t2local.training.reports import Notice

CONFIG = TrainConfig(steps=3, prompts_per_step=4, learning_rate=2e-2, validate_every=3)


@pytest.fixture
def short_of_memory(monkeypatch):
    """Forwards of more than `rows` rows run out of memory, in the way that PyTorch says it."""

    def limit(rows, error):
        losses = ChoicePolicy.losses

        def guarded(self, rollout, advantages, work):
            if self.config.rows_per_forward > rows:
                raise error
            return losses(self, rollout, advantages, work)

        monkeypatch.setattr(ChoicePolicy, "losses", guarded)

    return limit


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 80 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
def test_a_slice_that_does_not_fit_is_halved_and_the_run_goes_on(
    loaded, svf, colours, short_of_memory, error
):
    short_of_memory(1, error)
    events = []
    work = train(loaded, svf, colours, colours[:6], "choice", CONFIG)
    outcome = drain(work, events.append)
    notices = [e.text for e in events if isinstance(e, Notice)]
    assert [n.split(": ")[1] for n in notices] == [
        "from now on 2 rows a forward instead of 4.",
        "from now on 1 rows a forward instead of 2.",
    ]
    assert outcome.steps == CONFIG.steps


def test_a_single_row_that_does_not_fit_ends_the_run_in_a_sentence(
    loaded, svf, colours, short_of_memory
):
    short_of_memory(0, ERRORS[0])
    with pytest.raises(T2LocalError, match="Memory ran out at step 1 with a single row"):
        drain(train(loaded, svf, colours, colours[:6], "choice", CONFIG))


def test_other_errors_are_not_taken_for_a_shortage(loaded, svf, colours, short_of_memory):
    short_of_memory(0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        drain(train(loaded, svf, colours, colours[:6], "choice", CONFIG))
