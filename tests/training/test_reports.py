from t2local.training.reports import WINDOW, Check, curves, warnings


def step(number, reward=0.0, kl=0.01, entropy=1.0, equal=0.2):
    batch = {
        "reward_mean": reward, "reward_sd": 0.5, "kl_policy_from_base": kl, "entropy": entropy,
        "equal_groups": equal, "tokens": 100, "seconds": {"forward": 0.5, "backward": 0.5},
    }  # fmt: skip
    return {
        "event": "StepReport",
        "step": number,
        "steps": 99,
        "gradient_norm": 0.5,
        "change": 0.01,
        "change_by_layer": [0.01],
        "batch": batch,
    }


def run(**last):
    quiet = [step(i + 1) for i in range(WINDOW)]
    return curves([*quiet, *(step(WINDOW + i + 1, **last) for i in range(WINDOW))])


def test_curves_have_one_entry_a_step_and_the_checks():
    check = {"event": "Validation", "step": 1, "accuracy": 0.5, "reward": 0.0, "n": 4, "best": True}
    found = curves([{"event": "DryRun"}, step(1, 0.25), check])
    assert found.steps == [1]
    assert found.reward == [0.25]
    assert found.tokens_per_s == [100.0]
    assert found.checks == [Check(1, 0.5, 4, True)]


def test_a_quiet_run_and_a_young_one_have_no_warnings():
    assert warnings(run()) == []
    assert warnings(curves([step(1), step(2, reward=-1.0)])) == []


def test_each_trouble_is_told_with_what_to_try():
    troubles = {
        "reward fell": {"reward": -0.5},
        "far from the base": {"kl": 3.0},
        "entropy collapsed": {"entropy": 0.01},
        "earn the same": {"equal": 1.0},
    }
    for words, last in troubles.items():
        (told,) = warnings(run(**last))
        assert words in told
        assert "try" in told
