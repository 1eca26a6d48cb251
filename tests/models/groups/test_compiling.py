"""Loops are compiled in a process of its own, for whatever processor this is."""

import os
import platform
import subprocess
import sys

import pytest

from t2local.models.groups import compiling
from t2local.models.groups.linear import compiling_problem
from t2local.paths import PROJECT_ROOT
from t2local.progress import drain

OLDER = """
import torch
from gguf import GGMLQuantizationType as Kind
from t2local.models.groups.codes import from_gguf
from t2local.models.groups.linear import compiling_problem, multiplied, rounds_in_pairs
from tests.models.groups.blocks import random_blocks
groups = from_gguf(random_blocks(Kind.Q4_K, 48, 512), Kind.Q4_K)
x = torch.randn(3, 512)
meant = x.double() @ groups.dense().double().T
print(compiling_problem() or float((multiplied(x, groups) - meant).norm() / meant.norm()))
print(rounds_in_pairs())
"""
AVX2 = "+avx,+avx2,+fma,+f16c,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+bmi,+bmi2"


@pytest.fixture
def not_begun(monkeypatch, tmp_path):
    """As in a process that has not compiled anything, in an empty home."""
    monkeypatch.setenv("T2LOCAL_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, compiling.PRODUCTS, raising=False)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of x86")
def test_processors_without_avx_512_have_products_as_well(tmp_path):
    older = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2}
    environment = {**os.environ, **older, "T2LOCAL_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", OLDER]
    done = subprocess.run(
        command, env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    error, pairs = done.stdout.split()
    assert float(error) < 1e-6
    assert pairs == "False"


def test_a_compiler_that_ends_its_process_leaves_this_one_alone(not_begun, monkeypatch):
    monkeypatch.setattr(compiling, "COMPILE", "import sys; sys.exit('no code for this processor')")
    assert drain(compiling.compiling()) == "no code for this processor"
    monkeypatch.setattr(compiling, "COMPILE", "import os; os._exit(7)")
    assert "7" in drain(compiling.compiling())


def test_code_that_cannot_be_noted_as_compiled_is_no_problem(not_begun, monkeypatch, tmp_path):
    (tmp_path / "compiled").write_text("in the way of a folder")
    noted = "from t2local.models.groups import compiling; compiling.noted()"
    monkeypatch.setattr(compiling, "COMPILE", noted)
    assert drain(compiling.compiling()) == ""


def test_the_process_ends_with_whoever_waits_for_it(not_begun, monkeypatch):
    children, begin = [], subprocess.Popen
    monkeypatch.setattr(compiling, "COMPILE", "import time; time.sleep(100)")
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **k: children.append(begin(*a, **k)) or children[-1]
    )
    work = compiling.compiling()
    next(work)
    work.close()
    assert children[0].returncode is not None


def test_what_threads_start_is_compiled_before_it_is_asked_for():
    assert compiling_problem() == ""
    from t2local.models.groups import model_step, products

    for started in (
        products.product_of, products.dense_of, products.bfloat16_of, model_step.step_of
    ):  # fmt: skip
        assert len(started.signatures) == 1
