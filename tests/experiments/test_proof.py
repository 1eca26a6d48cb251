"""What cannot be proved is refused in a sentence."""

import pytest

from t2local.errors import T2LocalError
from t2local.experiments.proof import ProofPlan, prove


def test_an_unknown_section_is_refused():
    with pytest.raises(T2LocalError, match=r"no section 'magic'.*methods"):
        ProofPlan(("magic",))


def test_a_model_without_shipped_experts_is_refused(tiny_loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("t2local.experiments.proof.measured_sets", lambda limit: {})
    with pytest.raises(T2LocalError, match="No experts ship"):
        prove(tiny_loaded(), ProofPlan(("dispatch",)), lambda event: None)
