"""Linear layers and embeddings that hold grouped matrices and compute from them.

`GroupedLinear` is to PyTorch an `nn.Linear` whose `weight` is made anew when somebody asks for it.
Products run by compiled loops (`products`) on all threads that PyTorch uses; where those cannot be
had, and in a backward pass, a few rows of the matrix at a time become floats.
"""

import contextlib
import ctypes
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2local.models.groups.codes import LANES, Groups
from t2local.models.groups.compiling import compiling
from t2local.progress import drain

BLOCKS = 64  # of 16 rows that are floats at a time, where loops are not compiled
STRIP = 320  # the same in a training step: a whole matrix of a small model
POLL_S = 0.05
LITTLE = 2**18  # numbers of a matrix times rows of input that are not worth a second thread


class GroupedLinear(nn.Linear):
    """`y = W x + b` with W in groups; the inputs and the bias are float32.

    `stored_as`: which numbers on the disk these are, for ever; "" where nobody knows.
    """

    def __init__(self, groups: Groups, bias: Tensor | None = None, stored_as: str = "") -> None:
        nn.Module.__init__(self)  # the parent's own would make a matrix of floats
        self.stored_as = stored_as
        self.in_features, self.out_features = groups.columns, groups.rows
        self.register_buffer("codes", groups.codes)
        self.register_buffer("scales", groups.scales)
        self.register_buffer("offsets", groups.offsets)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def groups(self) -> Groups:
        return Groups(self.codes, self.scales, self.offsets, self.out_features, self.in_features)

    @property
    def weight(self) -> Tensor:
        """The matrix, float32 `[m, n]`, computed."""
        return dense(self.groups)

    def forward(self, input: Tensor) -> Tensor:
        x = input.float()
        if torch.is_grad_enabled() and x.requires_grad:
            y = _Product.apply(x, self.groups)
        else:
            y = multiplied(x, self.groups)
        y = y if self.bias is None else y + self.bias
        return y.to(input.dtype)


class GroupedEmbedding(nn.Module):
    """Rows of a grouped matrix `[V, h]` by their numbers."""

    def __init__(self, groups: Groups) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = groups.rows, groups.columns
        self.register_buffer("codes", groups.codes)
        self.register_buffer("scales", groups.scales)
        self.register_buffer("offsets", groups.offsets)

    @property
    def groups(self) -> Groups:
        return Groups(
            self.codes, self.scales, self.offsets, self.num_embeddings, self.embedding_dim
        )

    @property
    def weight(self) -> Tensor:
        """The matrix, float32 `[V, h]`, computed."""
        return self.groups.dense()

    def forward(self, input: Tensor) -> Tensor:
        return self.groups.row(input)


# --- In a training step: products that round, where that is quick.
#
# Whether they may is what PyTorch is told of its own products of float32 matrices on a CPU, and is
# asked when a gradient is wanted: inputs, weights and results become bfloat16 (0.4 % each), sums
# stay float32.


def rounds() -> bool:
    """Whether float32 products may round to bfloat16 at this moment."""
    return torch.backends.mkldnn.matmul.fp32_precision == "bf16"


@lru_cache
def rounds_quickly() -> bool:
    """Whether this processor multiplies bfloat16 by instructions of its own."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


@lru_cache
def rounds_in_pairs() -> bool:
    """Whether it has the one instruction that compiled steps of bfloat16 are made of."""
    if compiling_problem():
        return False
    from t2local.models.groups.vectors import PAIRS

    return PAIRS


@contextlib.contextmanager
def rounded_products() -> Iterator[None]:
    """Inside the block `rounds()`, for the whole process: hold the model's lock."""
    settings = torch.backends.mkldnn.matmul
    before, settings.fp32_precision = settings.fp32_precision, "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


class _Product(torch.autograd.Function):
    """The product with a gradient for its input alone."""

    @staticmethod
    def forward(ctx, x: Tensor, groups: Groups) -> Tensor:
        ctx.groups, ctx.rounds = groups, rounds()
        if not ctx.rounds:
            return multiplied(x, groups)
        parts = [_product(x, part, True) for _, part in _strips(groups)]
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # [..., m] -> [..., n]
        return _transposed(gradient, ctx.groups, ctx.rounds), None


def _strips(groups: Groups) -> Iterator[tuple[int, Groups]]:
    """A matrix some rows at a time, with the place of the first."""
    for first in range(0, len(groups.codes), STRIP):
        yield first * LANES, groups.blocks(first, first + STRIP)


def _product(x: Tensor, groups: Groups, rounded: bool) -> Tensor:
    """`W x`, float32 `[..., n]` -> `[..., m]`."""
    if not rounded:
        return multiplied(x, groups)
    return (x.bfloat16() @ bfloat16_columns(groups)).float()


def _transposed(gradient: Tensor, groups: Groups, rounded: bool) -> Tensor:
    """`Wᵀ g`, float32 `[..., m]` -> `[..., n]`."""
    found = gradient.new_zeros(*gradient.shape[:-1], groups.columns)
    gradient = gradient.bfloat16() if rounded else gradient
    for start, part in _strips(groups):
        own = gradient[..., start : start + part.rows]
        found += own @ (bfloat16_columns(part).T if rounded else dense(part))
    return found


class _LogProbabilities(torch.autograd.Function):
    """See `log_probabilities`."""

    @staticmethod
    def forward(ctx, states, targets, groups, bias, temperature):
        rounded = ctx.needs_input_grad[0] and rounds()
        most, total = (torch.full((len(states),), value) for value in (-torch.inf, 0.0))
        wanted = torch.zeros(len(states))
        for start, part in _strips(groups):
            logits = _logits(states, part, start, bias, temperature, rounded)
            top = torch.maximum(most, logits.amax(dim=1))
            rows, columns = _among(targets, start, part)
            wanted[rows] = logits[rows, columns]
            total = total * (most - top).exp() + (logits - top[:, None]).exp_().sum(dim=1)
            most = top
        normaliser = most + total.log()
        ctx.save_for_backward(states, targets, normaliser)
        ctx.groups, ctx.others = groups, (bias, temperature, rounded)
        return wanted - normaliser

    @staticmethod
    def backward(ctx, gradient):  # [N]
        states, targets, normaliser = ctx.saved_tensors
        _, temperature, rounded = ctx.others
        found, of_logits = torch.zeros_like(states), gradient / temperature
        for start, part in _strips(ctx.groups):
            logits = _logits(states, part, start, *ctx.others)
            share = logits.sub_(normaliser[:, None]).exp_().mul_(-of_logits[:, None])
            rows, columns = _among(targets, start, part)
            share[rows, columns] += of_logits[rows]
            found += _transposed(share, part, rounded)
        return found, None, None, None, None


def _logits(states, part, start, bias, temperature, rounded) -> Tensor:
    """A strip's `[N, rows]` over the temperature."""
    logits = _product(states, part, rounded)
    if bias is not None:
        logits += bias[start : start + part.rows]
    return logits if temperature == 1 else logits.div_(temperature)


def _among(targets: Tensor, start: int, part: Groups) -> tuple[Tensor, Tensor]:
    """Which of the targets are among the rows of a strip, and which rows they are."""
    rows = ((targets >= start) & (targets < start + part.rows)).nonzero()[:, 0]
    return rows, targets[rows] - start


def log_probabilities(
    states: Tensor, targets: Tensor, head: GroupedLinear, temperature: float = 1.0
) -> Tensor:
    """log p `[N]` of `targets` `[N]` under the softmax of `head(states)` `[N, V]` / temperature.

    A strip of the vocabulary at a time for all states, and once more in the backward pass, so that
    neither the logits nor the whole matrix are ever there (Wijmans et al. 2024, arXiv 2411.09009).
    """
    return _LogProbabilities.apply(states, targets, head.groups, head.bias, temperature)


def multiplied(x: Tensor, groups: Groups) -> Tensor:
    """`W x`: float32 `[..., n]` -> `[..., m]`."""
    flat = x.detach().reshape(-1, groups.columns).contiguous()
    if not compiling_problem():
        return _compiled(flat, groups).view(*x.shape[:-1], groups.rows)
    parts = [
        F.linear(flat, groups.dense(first, first + BLOCKS))
        for first in range(0, len(groups.codes), BLOCKS)
    ]
    return torch.cat(parts, dim=1).view(*x.shape[:-1], groups.rows)


def dense(groups: Groups) -> Tensor:
    """`Groups.dense`, the same to the bit, quickly."""
    if compiling_problem():
        return groups.dense()
    from t2local.models.groups import products

    out = torch.empty(len(groups.codes) * LANES, groups.columns)
    _filled(products.dense_of, groups, out)
    return out[: groups.rows]


def bfloat16_columns(groups: Groups) -> Tensor:
    """The matrix transposed, bfloat16 `[n, m]`."""
    if compiling_problem():
        return groups.dense().bfloat16().T
    from t2local.models.groups import products

    out = torch.empty(groups.columns, len(groups.codes) * LANES, dtype=torch.bfloat16)
    _filled(products.bfloat16_of, groups, out)
    return out[:, : groups.rows]


def _filled(work: Callable[..., None], groups: Groups, out: Tensor) -> None:
    from t2local.models.groups import products

    counters, line = np.zeros(products.REGIONS, np.int64), matrix_line(groups)
    given = (line.ctypes.data, 0, len(groups.codes), out.data_ptr(), counters.ctypes.data, 0, 0, 0)
    WORKERS.together(work, given)


def _compiled(x: Tensor, groups: Groups) -> Tensor:
    from t2local.models.groups import products

    rows = len(x)
    out = torch.empty(rows, len(groups.codes) * LANES)
    sums = torch.empty(0)
    if groups.offsets is not None:
        sums = x.view(rows, -1, groups.group).sum(dim=2)  # [rows, groups]
    counters = np.zeros((rows // products.TILE + 1) * products.REGIONS, np.int64)
    line = matrix_line(groups)
    WORKERS.together(
        products.product_of,
        (
            line.ctypes.data, x.data_ptr(), 4 * x.shape[1], sums.data_ptr(), rows,
            out.data_ptr(), 4 * out.shape[1], counters.ctypes.data,
        ),
        1 if rows * groups.rows * groups.columns < LITTLE else None,
    )  # fmt: skip
    return out[:, : groups.rows]


def matrix_line(groups: Groups) -> np.ndarray:
    """A matrix as `products` take it, without a branch; valid as long as its tensors are."""
    from t2local.models.groups import products

    line = np.zeros(products.MATRIX, np.int64)
    line[: products.COLUMNS + 1] = (
        groups.bits, groups.group, groups.codes.data_ptr(), groups.scales.data_ptr(),
        0 if groups.offsets is None else groups.offsets.data_ptr(), groups.rows, groups.columns,
    )  # fmt: skip
    return line


@lru_cache
def compiling_problem() -> str:
    """Why products are not compiled here, "" where they are: tried once, and said once."""
    try:
        if problem := drain(compiling(), lambda _: time.sleep(POLL_S)):
            raise RuntimeError(problem)
        from t2local.models.groups import model_step  # noqa: F401

        return ""
    except Exception as error:  # no numba, or one that has no code for this processor
        problem = (
            f"numba does not run here: {str(error).splitlines()[0] if str(error) else error!r}"
        )
    warnings.warn(f"Grouped weights are multiplied slowly: {problem}.", stacklevel=2)
    return problem


class Workers:
    """Threads that share a product with the one that asks.

    They are OpenMP's own where PyTorch's are GNU's: others would wait for a core that one of those
    still holds, looking out for work. Elsewhere they are a pool, which serves one at a time; who
    comes meanwhile goes alone.
    """

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._size = 0

    @property
    def count(self) -> int:
        """How many threads there may be, as many as PyTorch uses."""
        return torch.get_num_threads()

    def together(
        self, work: Callable[..., None], arguments: Sequence[int], most: int | None = None
    ) -> None:
        """A function of `products` that takes int64 arguments, in `most` threads or in all."""
        from t2local.models.groups import products

        given, many = np.array(arguments, np.int64), min(self.count, most or self.count)
        if many == 1:
            work(given, 0, 1)
        elif products.OPENMP:
            products.OPENMP.GOMP_parallel(
                ctypes.c_void_p(products.TEAM[work]), ctypes.c_void_p(given.ctypes.data), many, 0
            )
        elif self._asking.acquire(blocking=False):
            try:
                self._by_pool(work, given, many)
            finally:
                self._asking.release()
        else:
            work(given, 0, 1)

    def _by_pool(self, work: Callable[..., None], given: np.ndarray, many: int) -> None:
        if self._pool is None or self._size < many - 1:
            self._pool, self._size = ThreadPoolExecutor(many - 1, "products"), many - 1
        others = [self._pool.submit(work, given, number, many) for number in range(1, many)]
        work(given, 0, many)
        for other in others:
            other.result()


WORKERS = Workers()
