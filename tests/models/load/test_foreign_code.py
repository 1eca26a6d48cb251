"""No code of a checkpoint is ever run, and nobody is asked whether it may."""

import ast
import contextlib
import json
import os
import subprocess
import sys

import pytest

from t2local.errors import T2LocalError
from t2local.models.fit.anatomy import anatomy_of
from t2local.models.load.loader import load_model
from t2local.paths import PROJECT_ROOT
from t2local.progress import drain

SOURCES = [PROJECT_ROOT / "app.py", *sorted((PROJECT_ROOT / "t2local").rglob("*.py"))]
ASKING = {"from_pretrained", "from_config", "load_dataset"}  # that may run what they fetch
CODE = """
from pathlib import Path
Path({mark!r}).write_text("run")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "never-heard-of"
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""
CHILD = """
import sys
from t2local.errors import T2LocalError
from t2local.models.fit.anatomy import anatomy_of
from t2local.models.load.loader import load_model
from t2local.progress import drain
for read in (anatomy_of, lambda folder: drain(load_model(folder))):
    try:
        read(sys.argv[1])
        print("LOADED")
    except T2LocalError as error:
        print("REFUSED", error)
"""


def calls(tree: ast.Module):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node


def test_every_call_that_might_run_code_forbids_it():
    seen = 0
    for path in SOURCES:
        for call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            if call.func.attr in ASKING:
                given = {word.arg: word.value for word in call.keywords}
                forbidden = given.get("trust_remote_code")
                place = f"{path.name}:{call.lineno}"
                assert isinstance(forbidden, ast.Constant), place
                assert forbidden.value is False, place
                seen += 1
    assert seen >= 9


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "mark"


@pytest.fixture
def with_code(tiny_folder, mark):
    """A folder whose architecture is its own code, which leaves a mark when it is run."""
    folder = tiny_folder("llama")
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    config |= {"model_type": "never-heard-of", "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_with_code_is_refused_although_somebody_says_yes(with_code, mark):
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(with_code)],
        input="y\ny\ny\ny\n", capture_output=True, text=True, timeout=120, cwd=PROJECT_ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.stdout.count("REFUSED") == 2, child.stdout + child.stderr
    assert "LOADED" not in child.stdout
    assert "its own code, which t2local never does" in child.stdout
    assert "[y/N]" not in child.stdout + child.stderr, "nobody is asked"
    assert not mark.exists()


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_code_beside_a_known_architecture_is_not_run(tiny_folder, mark, file):
    folder = tiny_folder("llama")
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    settings = json.loads((folder / file).read_text())
    names = {"AutoTokenizer": [None, "own.Tokenizer"], "AutoConfig": "own.Config",
             "AutoModelForCausalLM": "own.Model"}  # fmt: skip
    (folder / file).write_text(json.dumps({**settings, "auto_map": names}))
    with contextlib.suppress(T2LocalError):  # either is right: refused, or loaded without it
        drain(load_model(str(folder)))
        anatomy_of(str(folder))
    assert not mark.exists()
