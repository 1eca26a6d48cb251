"""The few loops that LLVM does not find by itself, as its vectors: what `products` is built from.

A matrix `[m, n]` lies in blocks of 16 rows; for each input k stand the 16 rows' numbers side by
side, so that one vector holds a number of each row and a group's scales are one vector as well.
Integers become float32 in a register and are multiplied with float32 inputs: nothing is rounded.
The vectors are LLVM's generic ones: it compiles them for AVX-512, AVX2, NEON or plain SSE alike.
One instruction is named, and only for processors that have it (`PAIRS`).

Numba intrinsics; addresses are int64. No bounds are checked here.
"""

import contextlib
import ctypes
import sys
from pathlib import Path

import llvmlite.binding
import torch
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

LANES = 16
INT8, INT32, INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
HALF, FLOAT = ir.HalfType(), ir.FloatType()
INT8S, INT32S = ir.VectorType(INT8, LANES), ir.VectorType(INT32, LANES)
HALVES, FLOATS = ir.VectorType(HALF, LANES), ir.VectorType(FLOAT, LANES)
INT16S = ir.VectorType(ir.IntType(16), LANES)
ZEROS = ir.Constant(FLOATS, [0.0] * LANES)

llvmlite.binding.initialize_native_asmparser()  # for the one instruction that is named below
FEATURES = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
PAIRS = "+avx512bf16" in FEATURES.split(",")  # whether the code is for processors that have it


@intrinsic(prefer_literal=True)
def dot_block(
    _, bits, group, offset, tile, codes, scales, offsets, x, x_stride, sums, n_groups, out, o_stride
):  # fmt: skip
    """`out[t] = W_block x[t]`, 16 rows of a matrix times `tile` inputs `[n]`.

    `bits` 8 (signed) or 4, of a `group` of 16 or 32 inputs; `offset` 1 where a group's numbers are
    scale · code + offset, `sums` then has each input's sum over each group. Strides in bytes;
    `sums` lie as `[tile, n_groups]`.
    """
    numbers = [types.int64] * 9
    signature = types.void(bits, group, offset, tile, *numbers)
    kind = [value.literal_value for value in (bits, group, offset, tile)]

    def generate(context, builder, _signature, arguments):
        _dot_block(builder, *kind, *arguments[4:])
        return context.get_dummy_value()

    return signature, generate


def _dot_block(
    b, bits, group, offset, tile, codes, scales, offsets, x, x_stride, sums, n_groups, out, o_stride
):  # fmt: skip
    chains = max(1, 4 // tile)  # a sum waits four cycles for the last: several go side by side
    before, loop, after = b.block, b.append_basic_block("group"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    here = b.phi(INT64)
    here.add_incoming(INT64(0), before)
    totals = [b.phi(FLOATS) for _ in range(tile)]
    for total in totals:
        total.add_incoming(ZEROS, before)
    first = b.add(codes, b.mul(here, INT64(group * LANES * bits // 8)))
    inputs = [
        b.add(b.add(x, b.mul(x_stride, INT64(t))), b.mul(here, INT64(4 * group)))
        for t in range(tile)
    ]
    parts = [[ZEROS] * chains for _ in range(tile)]
    for k, weight in _weights(b, bits, group, first):
        for t in range(tile):
            value = _everywhere(b, _load(b, b.add(inputs[t], INT64(4 * k)), FLOAT, 4))
            parts[t][k % chains] = _fma(b, weight, value, parts[t][k % chains])
    beside = b.mul(here, INT64(2 * LANES))
    scale = b.fpext(_load(b, b.add(scales, beside), HALVES, 2), FLOATS)
    shift = b.fpext(_load(b, b.add(offsets, beside), HALVES, 2), FLOATS) if offset else None
    following = b.add(here, INT64(1))
    for t, total in enumerate(totals):
        part = parts[t][0]
        for other in parts[t][1:]:
            part = b.fadd(part, other)
        new = _fma(b, part, scale, total)
        if offset:
            place = b.add(b.mul(n_groups, INT64(t)), here)
            of_group = _load(b, b.add(sums, b.mul(place, INT64(4))), FLOAT, 4)
            new = _fma(b, shift, _everywhere(b, of_group), new)
        total.add_incoming(new, b.block)
        stored = b.add(out, b.mul(o_stride, INT64(t)))
        parts[t] = (new, stored)
    here.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, n_groups), loop, after)
    b.position_at_end(after)
    for new, stored in parts:
        _store(b, new, stored)


def _weights(b, bits, group, first):
    """Each input of a group with its vector of 16 rows' numbers."""
    for k in range(group * bits // 8):
        codes = _load(b, b.add(first, INT64(k * LANES)), INT8S, 1)
        if bits == 8:
            yield k, b.sitofp(b.sext(codes, INT32S), FLOATS)
            continue
        wide = b.zext(codes, INT32S)
        yield k, b.sitofp(b.and_(wide, ir.Constant(INT32S, [15] * LANES)), FLOATS)
        high = b.lshr(wide, ir.Constant(INT32S, [4] * LANES))
        yield k + group // 2, b.sitofp(high, FLOATS)


def _dense_group(b, bits, group, offset, codes, scales, offsets, out, stride):
    """As float32: `out` `[16, group]`, a row `stride` after the last."""
    scale = b.fpext(_load(b, scales, HALVES, 2), FLOATS)
    shift = b.fpext(_load(b, offsets, HALVES, 2), FLOATS) if offset else None
    for k, weight in _weights(b, bits, group, codes):
        value = b.fmul(weight, scale)
        value = b.fadd(value, shift) if offset else value
        for row in range(LANES):
            where = b.add(out, b.add(b.mul(stride, INT64(row)), INT64(4 * k)))
            number = b.extract_element(value, INT32(row))
            b.store(number, b.inttoptr(where, FLOAT.as_pointer())).align = 4


def _bfloat16_group(b, bits, group, offset, codes, scales, offsets, out, stride):
    """Transposed, as bfloat16: `out` `[group, 16]`. The nearest; of two as near the even one."""
    scale = b.fpext(_load(b, scales, HALVES, 2), FLOATS)
    shift = b.fpext(_load(b, offsets, HALVES, 2), FLOATS) if offset else None
    for k, weight in _weights(b, bits, group, codes):
        value = b.fmul(weight, scale)
        value = b.fadd(value, shift) if offset else value
        _store_bfloat16(b, value, b.add(out, b.mul(stride, INT64(k))))


def _writing(emit):
    """An intrinsic that writes a group of 16 rows by `emit`: addresses, and `stride` in bytes."""

    @intrinsic(prefer_literal=True)
    def write(_, bits, group, offset, codes, scales, offsets, out, stride):
        signature = types.void(bits, group, offset, *[types.int64] * 5)
        kind = [value.literal_value for value in (bits, group, offset)]

        def generate(context, builder, _signature, arguments):
            emit(builder, *kind, *arguments[3:])
            return context.get_dummy_value()

        return signature, generate

    return write


dense_group = _writing(_dense_group)
bfloat16_group = _writing(_bfloat16_group)


def _store_bfloat16(b, value, address):
    def every(number):
        return ir.Constant(INT32S, [number] * LANES)

    value = b.bitcast(value, INT32S)
    odd = b.and_(b.lshr(value, every(16)), every(1))
    value = b.lshr(b.add(value, b.add(odd, every(0x7FFF))), every(16))
    b.store(b.trunc(value, INT16S), b.inttoptr(address, INT16S.as_pointer())).align = 2


@intrinsic
def bfloat16_row(_, x, n, out):
    """`n` float32 at address `x` as bfloat16 at `out`; n is a multiple of 16."""

    def generate(context, b, _signature, arguments):
        x, n, out = arguments

        def body(place, _):
            value = _load(b, b.add(x, b.mul(place, INT64(4))), FLOATS, 4)
            _store_bfloat16(b, value, b.add(out, b.mul(place, INT64(2))))
            return []

        _looped(b, n, [], body)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def dot_pairs(_, tile, weights, x, n, out, o_stride):
    """`out[t] = W_block x[t]`, bfloat16: 16 rows of a matrix times `tile` inputs `[n]`.

    `weights`: for each two inputs the 16 rows' two numbers `[n / 2, 16, 2]`; n is a multiple of 16.
    One instruction of x86 multiplies and adds both to float32; without it nothing is done, for LLVM
    ends the process where a processor lacks an instruction that is named.
    """
    signature = types.void(tile, *[types.int64] * 5)
    count = tile.literal_value

    def generate(context, builder, _signature, arguments):
        if PAIRS:
            _dot_pairs(builder, count, *arguments[1:])
        return context.get_dummy_value()

    return signature, generate


def _dot_pairs(b, tile, weights, x, n, out, o_stride):
    chains = max(1, min(8, 16 // tile))  # pairs in a turn, each with its own sums
    kind = ir.FunctionType(FLOATS, [FLOATS, INT32S, INT32S])
    multiply_add = ir.InlineAsm(kind, "vdpbf16ps $3, $2, $0", "=v,0,v,v")
    starts = [b.add(x, b.mul(n, INT64(2 * t))) for t in range(tile)]

    def body(place, sums):  # 8 pairs
        found = list(sums)
        for pair in range(LANES // 2):
            weight = _load(
                b, b.add(weights, b.mul(b.add(place, INT64(2 * pair)), INT64(32))), INT32S, 4
            )
            beside = b.add(b.mul(place, INT64(2)), INT64(4 * pair))
            for t, start in enumerate(starts):
                value = _load(b, b.add(start, beside), INT32, 4)
                one = b.insert_element(ir.Constant(INT32S, ir.Undefined), value, INT32(0))
                both = b.shuffle_vector(one, one, ir.Constant(INT32S, [0] * LANES))
                at = t * chains + pair % chains
                found[at] = b.call(multiply_add, [found[at], weight, both])
        return found

    sums = _looped(b, n, [ZEROS] * (tile * chains), body)
    for t in range(tile):
        total = sums[t * chains]
        for other in sums[t * chains + 1 : (t + 1) * chains]:
            total = b.fadd(total, other)
        _store(b, total, b.add(out, b.mul(o_stride, INT64(t))))


@intrinsic(prefer_literal=True)
def branch_rows(_, rows, vectors, n, x, deltas, y):
    """`y += Σ_i delta_i (v_i · x) v_i` over `rows` int8 vectors `[n]` that lie one after the other.

    n is a multiple of 16.
    """
    signature = types.void(rows, *[types.int64] * 5)
    count = rows.literal_value

    def generate(context, builder, _signature, arguments):
        _branch_rows(builder, count, *arguments[1:])
        return context.get_dummy_value()

    return signature, generate


def _branch_rows(b, rows, vectors, n, x, deltas, y):
    starts = [b.add(vectors, b.mul(n, INT64(i))) for i in range(rows)]
    sums = _looped(b, n, [ZEROS] * rows, lambda here, held: _dots(b, starts, x, here, held))
    reduce = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(FLOAT, [FLOAT, FLOATS]), f"llvm.vector.reduce.fadd.v{LANES}f32"
    )
    weights = []
    for i, total in enumerate(sums):
        dot = b.call(reduce, [FLOAT(0.0), total], fastmath=("reassoc",))
        delta = _load(b, b.add(deltas, INT64(4 * i)), FLOAT, 4)
        weights.append(_everywhere(b, b.fmul(dot, delta)))

    def add(place, _):
        where = b.add(y, b.mul(place, INT64(4)))
        total = _load(b, where, FLOATS, 4)
        for start, weight in zip(starts, weights, strict=True):
            total = _fma(b, _vector(b, start, place), weight, total)
        _store(b, total, where)
        return []

    _looped(b, n, [], add)


def _dots(b, starts, x, place, sums):
    value = _load(b, b.add(x, b.mul(place, INT64(4))), FLOATS, 4)
    return [
        _fma(b, _vector(b, start, place), value, total)
        for start, total in zip(starts, sums, strict=True)
    ]


def _vector(b, start, place):
    return b.sitofp(b.sext(_load(b, b.add(start, place), INT8S, 1), INT32S), FLOATS)


def _looped(b, n, values, body):
    """`body(place, values)` for place 0, 16, … below n; the values after the last."""
    before, loop, after = b.block, b.append_basic_block("loop"), b.append_basic_block("end")
    b.branch(loop)
    b.position_at_end(loop)
    place = b.phi(INT64)
    place.add_incoming(INT64(0), before)
    held = [b.phi(FLOATS) for _ in values]
    for phi, value in zip(held, values, strict=True):
        phi.add_incoming(value, before)
    found = body(place, held)
    following = b.add(place, INT64(LANES))
    place.add_incoming(following, b.block)
    for phi, value in zip(held, found, strict=True):
        phi.add_incoming(value, b.block)
    b.cbranch(b.icmp_signed("<", following, n), loop, after)
    b.position_at_end(after)
    return found


# --- Threads that work on one product: taking the next piece, and waiting for each other.


@intrinsic
def take(_, counter, amount):
    """Add `amount` to the int64 at address `counter`, for all threads at once; what it was."""

    def generate(_context, b, _signature, arguments):
        address, count = arguments
        return b.atomic_rmw("add", b.inttoptr(address, INT64.as_pointer()), count, "acq_rel")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def look(_, counter):
    """The int64 at address `counter` as the other threads have left it."""

    def generate(_context, b, _signature, arguments):
        return b.load_atomic(b.inttoptr(arguments[0], INT64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), generate


def _address_of_yield() -> int:
    """Where this system's function lies that lets another thread have the core."""
    try:
        windows = sys.platform == "win32"
        function = (
            ctypes.windll.kernel32.SwitchToThread if windows else ctypes.CDLL(None).sched_yield
        )
    except (AttributeError, OSError):
        function = ctypes.pythonapi.Py_IsInitialized  # does not give way, and does no harm
    return ctypes.cast(function, ctypes.c_void_p).value


def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library whose threads PyTorch works with, where it is GNU's."""
    for path in sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*")):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(path))
    return None


def _external(name: str, address: int) -> types.ExternalFunction:
    llvmlite.binding.add_symbol(name, address)
    return types.ExternalFunction(name, types.int32())


OPENMP = _openmp()
give_way = _external("t2local_give_way", _address_of_yield())
if OPENMP:
    team_thread, team_size = (
        _external(f"t2local_{name}", ctypes.cast(OPENMP[name], ctypes.c_void_p).value)
        for name in ("omp_get_thread_num", "omp_get_num_threads")
    )


@intrinsic
def integers_at(_, address):
    """The address as a pointer to int64, for `numba.carray`."""
    signature = types.CPointer(types.int64)(types.int64)

    def generate(_context, b, _signature, arguments):
        return b.inttoptr(arguments[0], INT64.as_pointer())

    return signature, generate


@intrinsic
def nearest(_, value):
    """The nearest whole number to a float32. (Numba's own rounding does not become a vector.)"""

    def generate(_context, b, _signature, arguments):
        kind = ir.FunctionType(FLOAT, [FLOAT])
        round_ = cgutils.get_or_insert_function(b.module, kind, "llvm.rint.f32")
        return b.call(round_, arguments)

    return types.float32(types.float32), generate


@intrinsic
def power_of_two(_, whole):
    """2 to the power of a whole float32 from -126 to 127."""

    def generate(_context, b, _signature, arguments):
        exponent = b.fptosi(arguments[0], INT32)
        return b.bitcast(b.shl(b.add(exponent, INT32(127)), INT32(23)), FLOAT)

    return types.float32(types.float32), generate


@intrinsic
def floats_at(_, address):
    """The address as a pointer to float32, for `numba.carray`."""
    signature = types.CPointer(types.float32)(types.int64)

    def generate(_context, b, _signature, arguments):
        return b.inttoptr(arguments[0], FLOAT.as_pointer())

    return signature, generate


def _load(b, address, kind, align):
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def _store(b, value, address):
    b.store(value, b.inttoptr(address, FLOATS.as_pointer())).align = 4


def _everywhere(b, value):
    one = b.insert_element(ir.Constant(FLOATS, ir.Undefined), value, INT32(0))
    return b.shuffle_vector(one, one, ir.Constant(INT32S, [0] * LANES))


def _fma(b, left, right, added):
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    fma = cgutils.get_or_insert_function(b.module, kind, f"llvm.fmuladd.v{LANES}f32")
    return b.call(fma, [left, right, added])
