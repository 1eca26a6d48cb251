"""The fused branch: right by triton's interpreter, compiled for a card, absent without triton."""

import os
import subprocess
import sys
import warnings

import pytest
import torch

from t2local.paths import PROJECT_ROOT
from t2local.svf import attach, fused
from tests.svf.support import logits, random_z, relative

NO_TRITON = "triton is not installed; `pip install triton==3.4.0` runs these on the CPU"


def test_the_kernels_are_right_by_tritons_interpreter():
    pytest.importorskip("triton", reason=NO_TRITON)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/svf/interpreted.py"]
    finished = subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout[-4000:]


# name -> arguments that are tensors and numbers; constants as for a matrix of Llama-3-8B
POINTERS = {"v": "*bf16", "partial": "*bf16", "weighted": "*fp32", "delta": "*fp32"}
POINTERS |= {"total": "*bf16", "out": "*bf16"} | {f"d{i}": "*fp32" for i in range(3)}
VECTORS = ("q", "q0", "q1", "q2")
CONSTANTS = {
    "_sum_up": {"SHARES": 128, "BLOCK": 32},
    "_project": {"n": 4096, "ROWS": 32, "BLOCK": 32, "DEPTH": 128, "WIDEN": False},
    "_expand": {"chunk": 1024, "ROWS": 32, "BLOCK": 64, "DEPTH": 64, "WIDEN": False},
}
# how vectors are stored -> bytes of a number, or of two
STORED = {"i8": 1, "u8": 1, "bf16": 2}
# T4, A100, RTX 30, RTX 40, H100, B200, RTX 50; the first has no bfloat16 for many rows
CARDS = (75, 80, 86, 89, 90, 100, 120)
SHARED_KB = {75: 64}  # of the others the smallest has 99
KERNELS = [("_once", 1), ("_sum_up", 1), ("_project", 32), ("_expand", 32)]
CASES = [(card, *kernel, stored) for card in CARDS for kernel in KERNELS for stored in ("i8", "u8")]
CASES += [(86, "_once", rows, stored) for rows in (1, 2, 4) for stored in STORED]


@pytest.mark.parametrize(("card", "name", "rows", "stored"), list(dict.fromkeys(CASES)))
def test_a_kernel_compiles_for_every_card_from_turing_on(
    card, name, rows, stored, tmp_path, monkeypatch
):
    """To machine code: triton and its assembler need no GPU for it. What is copied ahead, and what
    sums need, fits into the shared memory of the smallest card of its kind."""
    triton = pytest.importorskip("triton", reason=NO_TRITON)
    from triton.backends.compiler import GPUTarget

    from t2local.svf import kernels

    if rows > fused.FEW_ROWS and (card // 10, card % 10) < fused.AMPERE:
        return  # goes the plain way there
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, is_packed = getattr(kernels, name), stored == "u8"
    names, stride = kernel.arg_names, 2048 if is_packed else 4096
    constants = {"PACKED": is_packed, **CONSTANTS.get(name, {})}
    if name == "_once":
        block = kernels.TILE // (4096 * rows)
        ahead = fused.AHEAD_BYTES if (card // 10, card % 10) >= fused.AMPERE else 0
        stages = kernels.stages(ahead, block * stride * STORED[stored])
        constants |= {"chunk": 32, "ROWS": rows, "BLOCK": block, "WIDTH": stride, "STAGES": stages}
    if name == "_project":
        constants["stride"] = stride
    constants = {a: value for a, value in constants.items() if a in names}
    kinds = {**POINTERS, **dict.fromkeys(VECTORS, f"*{stored}")}
    signature = {a: "constexpr" if a in constants else kinds.get(a, "i32") for a in names}
    places = {(names.index(a),): value for a, value in constants.items()}
    by_16 = [a for a in (*kinds, "k", "n", "stride") if a in names and a not in constants]
    divisible = {(names.index(a),): [["tt.divisibility", 16]] for a in by_16}
    source = triton.compiler.ASTSource(kernel, signature, places, divisible)
    options = {"num_warps": kernels.WARPS} if name == "_once" else {}
    found = triton.compile(source, target=GPUTarget("cuda", card, 32), options=options)
    assert found.asm["cubin"]
    assert found.metadata.shared <= SHARED_KB.get(card, 99) * 2**10
    if name == "_once":
        assert ("cp.async" in found.asm["ptx"]) == (card >= 80)


def test_without_a_gpu_the_path_is_plain_and_says_why():
    assert fused.branch_path("cpu") == "PyTorch products (the device is cpu)"
    assert attach_tiny_path().startswith("PyTorch products")


def attach_tiny_path() -> str:
    layer = torch.nn.Sequential(torch.nn.Linear(8, 8))
    return attach(layer).branch_path


def test_without_triton_the_path_is_plain_and_that_is_said_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "t2local.svf.kernels", None)
    monkeypatch.delattr("t2local.svf.kernels", raising=False)
    fused.fused_problem.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(2):
                assert "pip install triton" in fused.fused_problem(torch.device("cpu"))
        assert ["pip install triton" in str(warning.message) for warning in said] == [True]
    finally:
        fused.fused_problem.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize("basis", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("rows", [1, 2, 4, 8, 32])
def test_on_a_gpu_the_kernels_equal_the_plain_products(tiny, basis, rows, monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here; run `pytest -m gpu` on a machine that has one")
    svf = attach(tiny("llama").to("cuda", torch.bfloat16), basis_dtype=basis)
    assert svf.branch_path == "fused Triton kernels"
    ids = torch.arange(5, 5 + rows, device="cuda")[:, None]
    z = {name: row.cuda() for name, row in random_z(svf, rows).items()}
    base = logits(svf.model, ids)
    with svf.using(z):
        found = logits(svf.model, ids)
    monkeypatch.setattr(fused, "MOST_ROWS", 0)
    monkeypatch.setattr(fused, "FEW_ROWS", 0)
    with svf.using(z):
        plain = logits(svf.model, ids)
    assert relative(found - base, plain - base) < 0.2  # both round to bfloat16 at every layer
