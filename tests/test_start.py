"""What a start of the page or of a command does not import."""

import json
import subprocess
import sys

import pytest

from t2local.paths import PROJECT_ROOT

REPORT = "import sys, json; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"


@pytest.mark.parametrize(
    ("statements", "absent"),
    [
        ("import t2local.ui.page, t2local.engine.engine", {"peft", "bitsandbytes", "datasets"}),
        (
            "from t2local.cli.main import build_parser; build_parser()",
            {"peft", "bitsandbytes", "datasets", "gradio", "plotly"},
        ),
    ],
    ids=["page", "command"],
)
def test_a_start_leaves_out_what_few_need(statements, absent):
    """PEFT takes 60 MB and brings bitsandbytes, which speaks on stderr: imported where used."""
    done = subprocess.run(
        [sys.executable, "-c", f"{statements}\n{REPORT}"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not absent & set(json.loads(done.stdout.splitlines()[-1]))
    assert "kernels" not in done.stderr
