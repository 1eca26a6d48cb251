"""What cannot be proved is refused in a sentence; what was proved is told in tables."""

import pytest

from t2local.errors import T2LocalError
from t2local.experiments.proof import ProofPlan, as_markdown, prove
from t2local.experiments.sections import pass_times


def test_an_unknown_section_is_refused():
    with pytest.raises(T2LocalError, match=r"no section 'magic'.*methods"):
        ProofPlan(("magic",))


def test_a_model_without_shipped_experts_is_refused(tiny_loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("t2local.experiments.proof.measured_sets", lambda limit: {})
    with pytest.raises(T2LocalError, match="No experts ship"):
        prove(tiny_loaded(), ProofPlan(("dispatch",)), lambda event: None)


# --- A proof's tables say what its rows say.


MEASURED = {
    "variant": "SVF", "set": "arc_easy", "n": 300, "adapted": 0.5, "base": 0.4, "difference": 0.1,
    "ci95_difference": [0.02, 0.18], "numbers": 97920,
}  # fmt: skip
STRATEGY = {
    "task": "gsm8k", "strategy": "classifier", "n": 300, "accuracy": 0.02, "difference": None,
    "ci95_difference": None, "trained": 5, "first_pass_s": 2.0, "second_pass_s": 50.0,
}  # fmt: skip


def test_tables_carry_differences_in_points_and_shares_of_time():
    about = {"model": "m", "dtype": "bfloat16", "machine": "2 cores", "command": "prove"}
    times = pass_times([STRATEGY, STRATEGY | {"first_pass_s": 0.0}])
    assert len(times) == 1, "what has no first pass has no share"
    mixture = STRATEGY | {"best_single": "math", "over_best_single": [0.07, 0.03, 0.11]}
    found = {
        "methods": [MEASURED],
        "written": [STRATEGY, mixture],
        "pass_times": times,
        "dispatch": [],
    }
    text = as_markdown({"about": about, "sections": found})
    assert "+10.0 [+2.0, +18.0]" in text
    assert "97,920" in text
    assert "| +7.0 [+3.0, +11.0] (math) |" in text
    assert "| gsm8k | classifier | 2.0 s | 50.0 s | 4.0% |" in text
