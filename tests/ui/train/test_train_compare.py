from t2local.engine.job_record import JobStatus
from t2local.engine.training import RunReport
from t2local.progress import FINISHED, RUNNING
from t2local.training.config import TrainConfig
from t2local.training.reports import Curves
from t2local.training.runs import Plan
from t2local.ui.train.view import NOTHING, label, runs_html

RESULT = {
    "numbers": 97920,
    "train_s": 90.0,
    "held_out": {"n": 30, "base": 0.2, "trained": 0.8, "ci95_difference": [0.4, 0.8]},
}


def report(name, stage, result, **config):
    plan = Plan(name, "mails.csv", "choice", TrainConfig(**config))
    return RunReport(JobStatus("run", "training", name, stage, 7, 20), plan, Curves(), (), result)


def test_a_finished_run_says_what_came_of_it():
    html = runs_html([report("mails", FINISHED, RESULT)])
    for part in ("97,920", "1.5", "20 → 80 % of 30", "+40 to +80", "SVF by reward"):
        assert part in html


def test_a_run_in_progress_leaves_its_figures_open():
    html = runs_html([report("mails", RUNNING, {}, method="lora", objective="next-token")])
    assert html.count("<td>–</td>") == 4
    assert "LoRA by imitation" in html
    assert runs_html([]) == NOTHING


def test_the_legend_tells_methods_apart():
    svf, lora = report("a", RUNNING, {}), report("a", RUNNING, {}, method="lora")
    assert label(svf) != label(lora)
