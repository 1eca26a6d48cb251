import pytest

from t2local.errors import T2LocalError
from t2local.training.config import TrainConfig


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"baseline": "mean"}, "baseline is 'mean'"),
        ({"kl_estimator": "k9"}, "kl_estimator is 'k9'"),
        ({"method": "qlora"}, "method is 'qlora'; choose svf or lora"),
        ({"held_out_share": 1.0}, "held_out_share is 1.0"),
        ({"samples_per_prompt": 1}, "at least 2 samples"),
        ({"rollouts": "fast"}, "rollouts is 'fast'; choose quick or exact"),
        ({"prompt_order": "random"}, "prompt_order is 'random'"),
        ({"redraws": -1.0}, "redraws is -1.0; it must be 0"),
        ({"redraws": float("nan")}, "redraws is nan"),
    ],
)
def test_bad_options_are_named(change, word):
    with pytest.raises(T2LocalError, match=word):
        TrainConfig(**change)


def test_the_papers_setting_is_table_6():
    paper = TrainConfig().paper()
    assert (paper.prompts_per_step, paper.samples_per_prompt) == (256, 1)
    assert (paper.learning_rate, paper.clip) == (2e-3, 1e-3)
    assert (paper.baseline, paper.kl_estimator) == ("none", "full")
    assert (paper.rollouts, paper.prompt_order, paper.redraws) == ("exact", "in-turn", 0.0)
