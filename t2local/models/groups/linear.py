"""Linear layers and embeddings that hold grouped matrices and compute from them.

`GroupedLinear` is to PyTorch an `nn.Linear` whose `weight` is made anew when somebody asks for it.
Products run by compiled loops (`products`) on all threads that PyTorch uses; where those cannot be
had, and in a backward pass, a few rows of the matrix at a time become floats.
"""

import ctypes
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2local.models.groups.codes import LANES, Groups

BLOCKS = 64  # of 16 rows that are floats at a time
LITTLE = 2**18  # numbers of a matrix times rows of input that are not worth a second thread


class GroupedLinear(nn.Linear):
    """`y = W x + b` with W in groups; the inputs and the bias are float32."""

    def __init__(self, groups: Groups, bias: Tensor | None = None) -> None:
        nn.Module.__init__(self)  # the parent's own would make a matrix of floats
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


class _Product(torch.autograd.Function):
    """The product with a gradient for its input alone."""

    @staticmethod
    def forward(ctx, x: Tensor, groups: Groups) -> Tensor:
        ctx.groups = groups
        return multiplied(x, groups)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # [..., m] -> [..., n]
        groups, found = ctx.groups, 0
        for first in range(0, len(groups.codes), BLOCKS):
            rows = dense(groups, first, first + BLOCKS)
            start = first * LANES
            found = found + gradient[..., start : start + len(rows)] @ rows
        return found, None


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


def dense(groups: Groups, first: int = 0, last: int | None = None) -> Tensor:
    """`Groups.dense`, the same to the bit, quickly."""
    if compiling_problem():
        return groups.dense(first, last)
    from t2local.models.groups import products

    last = min(len(groups.codes), len(groups.codes) if last is None else last)
    out = torch.empty((last - first) * LANES, groups.columns)
    counters = np.zeros(products.REGIONS, np.int64)
    line = matrix_line(groups)
    WORKERS.together(
        products.dense_of,
        (line.ctypes.data, first, last, out.data_ptr(), counters.ctypes.data, 0, 0, 0),
    )
    return out[: groups.rows - first * LANES]


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
