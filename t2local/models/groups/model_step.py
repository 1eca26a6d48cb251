"""The next tokens of some rows of a Llama-like model of grouped weights, compiled.

One call a thread makes a whole step: norms, products, rotary positions, attention over each row's
own cache, and the SVF branches of a `z` that may be another for each row. `products` has the
products and says what a matrix's line is. Addresses are int64; nothing is checked here.
"""

import numpy as np
from numba import carray, cfunc, int64

from t2local.models.groups.products import (
    APART,
    BASIS,
    COLUMNS,
    DELTAS,
    MATRIX,
    REGIONS,
    ROWS,
    SIDE,
    TEAM,
    VECTORS,
    compiled,
    pieces,
    prepare,
    started,
    wait,
)
from t2local.models.groups.vectors import (
    OPENMP,
    branch_rows,
    floats_at,
    integers_at,
    nearest,
    power_of_two,
)

# `sizes` of a model and a batch, `places`: addresses of its buffers, rows of `STRIDE` floats each.
# `X` holds the hidden states from layer to layer.

LAYERS, BATCH, HIDDEN, HEADS, KEYS, WIDTH, INNER, STRIDE, LOGITS_STRIDE = range(9)
X, NORMED, HEARD, BESIDE, FOUND, CHANGED, SCRATCH, SUMS, LOGITS = range(9)
Q, K, V, OUT, GATE, UP, DOWN = range(7)
MOST = 3  # matrices with one input
ATTENTION_NORM, MLP_NORM, Q_BIAS, K_BIAS, V_BIAS = range(5)  # addresses, 0: none
COUNTERS = MOST * REGIONS  # for each of a layer's four projections; and for the head


@compiled
def exponential(x):
    """e ** x in float32 to 2e-7, in a form that becomes vectors; for x below 88, tiny below −87."""
    t = max(x, np.float32(-87)) * np.float32(1.44269504)
    whole = nearest(t)
    f = (t - whole) * np.float32(0.69314718)
    p = np.float32(1 / 720) + f * np.float32(1 / 5040)
    p = np.float32(1 / 24) + f * (np.float32(1 / 120) + f * p)
    p = np.float32(1) + f * (
        np.float32(1) + f * (np.float32(0.5) + f * (np.float32(1 / 6) + f * p))
    )
    return p * power_of_two(whole)


@compiled
def normed(x, weight, epsilon, out):
    """Root mean square norm of `x` `[n]` times `weight` `[n]`."""
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    factor = np.float32(1) / np.sqrt(total / np.float32(len(x)) + epsilon)
    for i in range(len(x)):
        out[i] = x[i] * factor * weight[i]


@compiled
def bends(matrix, side):
    """Whether a matrix has a branch at this side and a `z` for it."""
    return matrix[BASIS] != 0 and matrix[DELTAS] != 0 and matrix[SIDE] == side


@compiled
def branches(matrix, x, stride, rows, mine, thread, threads):
    """This thread's part of a matrix's branch at `x` `[B, n]`, added to `mine` `[B, n]`.

    Always the same vectors: which thread adds what would else show in the last digits.
    """
    r = matrix[COLUMNS] if matrix[SIDE] == 1 else matrix[ROWS]
    first, last = r * thread // threads, r * (thread + 1) // threads
    while first < last:
        piece = min(first + VECTORS, last)
        for t in range(rows):
            at, to = x + t * stride, mine + t * stride
            deltas = matrix[DELTAS] + t * matrix[APART]
            i = first
            while i + 8 <= piece:
                branch_rows(8, matrix[BASIS] + i * r, r, at, deltas + 4 * i, to)
                i += 8
            while i < piece:
                branch_rows(1, matrix[BASIS] + i * r, r, at, deltas + 4 * i, to)
                i += 1
        first = piece


@compiled
def adapted(matrices, side, x, apart, target, sizes, places, thread, threads, barrier):
    """`target[j] = x[j] + branch_j(x[j])` for some matrices' lines; every thread calls it.

    `x`: address of the first's inputs, the next's `apart` bytes on; `target`: of all their results,
    `[matrices, B, STRIDE]`. False, and nothing written, where none has a branch at `side`.
    """
    rows, stride, count = sizes[BATCH], sizes[STRIDE] * 4, len(matrices)
    found = False
    for j in range(count):
        if bends(matrices[j], side):
            found = True
            mine = places[SCRATCH] + (thread * MOST + j) * rows * stride
            branches(matrices[j], x + j * apart, stride, rows, mine, thread, threads)
    if not found:
        return False
    wait(barrier, threads)
    for item in range(thread, count * rows, threads):
        j, t = item // rows, item % rows
        n = matrices[j][COLUMNS] if side == 1 else matrices[j][ROWS]
        source = carray(floats_at(x + j * apart + t * stride), n)
        total = carray(floats_at(target + (j * rows + t) * stride), n)
        for i in range(n):
            total[i] = source[i]
        if not bends(matrices[j], side):
            continue
        for other in range(threads):
            part = carray(floats_at(places[SCRATCH] + ((other * MOST + j) * rows + t) * stride), n)
            for i in range(n):
                total[i] += part[i]
                part[i] = 0
    wait(barrier, threads)
    return True


@compiled
def project(matrices, x, sizes, places, thread, threads, barrier, counters):
    """Where the adapted products `[matrices, B, STRIDE]` of some matrices with one input `x` are.

    Every thread calls it.
    """
    rows, stride, count = sizes[BATCH], sizes[STRIDE] * 4, len(matrices)
    apart, sums = 0, places[SUMS] + thread * rows * stride
    beside, found, changed = places[BESIDE], places[FOUND], places[CHANGED]
    if adapted(matrices, 1, x, 0, beside, sizes, places, thread, threads, barrier):
        x, apart = beside, rows * stride
    for j in range(count):
        prepare(matrices[j], x + j * apart, stride, rows, sums)
        at, out, own = x + j * apart, found + j * rows * stride, counters + 8 * REGIONS * j
        pieces(matrices[j], at, stride, sums, rows, out, stride, own, thread, threads)
    wait(barrier, threads)
    apart = rows * stride
    if adapted(matrices, 2, found, apart, changed, sizes, places, thread, threads, barrier):
        return changed
    return found


@compiled
def turned(values, bias, cosines, sines):
    """Add the bias, if any, and the rotary position to a head `[d]` (RoFormer, halves)."""
    half = len(values) // 2
    if bias != 0:
        added = carray(floats_at(bias), len(values))
        for i in range(len(values)):
            values[i] += added[i]
    for i in range(half):
        low, high = values[i], values[i + half]
        values[i] = low * cosines[i] - high * sines[i]
        values[i + half] = high * cosines[i + half] + low * sines[i + half]


@compiled
def attend(queries, keys, values, heard, length, n_queries):
    """`heard` `[g, d]`: attention of g heads over one head's keys and values `[length, d]`."""
    width = len(queries) // n_queries
    weights = np.empty(length, np.float32)
    factor = np.float32(1) / np.sqrt(np.float32(width))
    for g in range(n_queries):
        query, out = queries[g * width : (g + 1) * width], heard[g * width : (g + 1) * width]
        most = np.float32(-np.inf)
        for s in range(length):
            total = np.float32(0)
            for i in range(width):
                total += query[i] * keys[s * width + i]
            weights[s] = total * factor
            most = max(most, weights[s])
        whole = np.float32(0)
        for s in range(length):
            weights[s] = exponential(weights[s] - most)
            whole += weights[s]
        for i in range(width):
            out[i] = 0
        for s in range(length):
            share = weights[s] / whole
            for i in range(width):
                out[i] += share * values[s * width + i]


@compiled
def placed(
    found, others, caches, lengths, capacities, cosines, sines, sizes, places, thread, threads
):
    """Biases and position of every row's queries; its keys and values join the caches."""
    rows, stride, kv, width = sizes[BATCH], sizes[STRIDE] * 4, sizes[KEYS], sizes[WIDTH]
    group = sizes[HEADS] // kv
    for item in range(thread, rows * kv, threads):
        t, head = item // kv, item % kv
        here = lengths[t]
        cosine, sine = cosines[here], sines[here]
        start = found + t * stride
        queries = carray(floats_at(start + head * group * width * 4), group * width)
        for g in range(group):
            bias = others[Q_BIAS]
            if bias != 0:
                bias += (head * group + g) * width * 4
            turned(queries[g * width : (g + 1) * width], bias, cosine, sine)
        place = head * width * 4
        key = carray(floats_at(start + rows * stride + place), width)
        turned(key, others[K_BIAS] + place if others[K_BIAS] != 0 else 0, cosine, sine)
        value = carray(floats_at(start + 2 * rows * stride + place), width)
        at = (head * capacities[t] + here) * width * 4
        new_key = carray(floats_at(caches[t, 0] + at), width)
        new_value = carray(floats_at(caches[t, 1] + at), width)
        for i in range(width):
            new_key[i] = key[i]
            new_value[i] = value[i]
        if others[V_BIAS] != 0:
            bias_of_v = carray(floats_at(others[V_BIAS] + place), width)
            for i in range(width):
                new_value[i] += bias_of_v[i]


@compiled
def attention(found, caches, lengths, capacities, sizes, places, thread, threads):
    """Attention of every row over its cache; heads that share keys go together."""
    rows, stride, kv, width = sizes[BATCH], sizes[STRIDE] * 4, sizes[KEYS], sizes[WIDTH]
    group = sizes[HEADS] // kv
    for item in range(thread, rows * kv, threads):
        t, head = item // kv, item % kv
        size, beginning = (lengths[t] + 1) * width, head * capacities[t] * width * 4
        place = t * stride + head * group * width * 4
        queries = carray(floats_at(found + place), group * width)
        keys = carray(floats_at(caches[t, 0] + beginning), size)
        values = carray(floats_at(caches[t, 1] + beginning), size)
        heard = carray(floats_at(places[HEARD] + place), group * width)
        attend(queries, keys, values, heard, lengths[t] + 1, group)


@compiled
def onward(added, weight, epsilon, sizes, places, thread, threads):
    """Add what a block found (address, 0: nothing) to the hidden states, and norm them."""
    stride, h = sizes[STRIDE] * 4, sizes[HIDDEN]
    for t in range(thread, sizes[BATCH], threads):
        x = carray(floats_at(places[X] + t * stride), h)
        if added != 0:
            new = carray(floats_at(added + t * stride), h)
            for i in range(h):
                x[i] += new[i]
        out = carray(floats_at(places[NORMED] + t * stride), h)
        normed(x, carray(floats_at(weight), h), epsilon, out)


@compiled
def gated(found, sizes, places, thread, threads):
    """silu(gate) · up into `HEARD`: each thread a share of the columns."""
    stride, n = sizes[STRIDE] * 4, sizes[INNER]
    share = (n + threads - 1) // threads
    for t in range(sizes[BATCH]):
        gate = carray(floats_at(found + t * stride), n)
        up = carray(floats_at(found + (sizes[BATCH] + t) * stride), n)
        out = carray(floats_at(places[HEARD] + t * stride), n)
        for i in range(thread * share, min(n, (thread + 1) * share)):
            out[i] = gate[i] / (np.float32(1) + exponential(-gate[i])) * up[i]


@compiled
def step(
    thread, threads, matrices, others, head, last_norm, epsilon, caches, lengths, capacities,
    cosines, sines, sizes, places, barrier, counters,
):  # fmt: skip
    """Next-token logits of some rows whose embeddings are in `X`; their keys join the caches.

    A row may have the cache of another one and be the next token of its sequence.

    `matrices` `[L, 7, MATRIX]`, `others` `[L, 5]`, `head` `[1, MATRIX]`; `caches` `[L, B, 2]`:
    addresses of keys and values `[kv, capacity, d]`; `lengths`, `capacities` `[B]`. Every thread
    calls it with its number; `counters`: address of zeros, `COUNTERS` for each projection.
    """
    onward(0, others[0, ATTENTION_NORM], epsilon, sizes, places, thread, threads)
    wait(barrier, threads)
    for layer in range(sizes[LAYERS]):
        now, own = counters + layer * 4 * COUNTERS * 8, matrices[layer]
        x = places[NORMED]
        found = project(own[Q : V + 1], x, sizes, places, thread, threads, barrier, now)
        placed(
            found, others[layer], caches[layer], lengths, capacities, cosines, sines, sizes,
            places, thread, threads,
        )  # fmt: skip
        if sizes[BATCH] > 1:  # rows may be tokens of one sequence, and see each other
            wait(barrier, threads)
        attention(found, caches[layer], lengths, capacities, sizes, places, thread, threads)
        wait(barrier, threads)
        now += COUNTERS * 8
        x = places[HEARD]
        found = project(own[OUT : OUT + 1], x, sizes, places, thread, threads, barrier, now)
        onward(found, others[layer, MLP_NORM], epsilon, sizes, places, thread, threads)
        wait(barrier, threads)
        now += COUNTERS * 8
        x = places[NORMED]
        found = project(own[GATE : UP + 1], x, sizes, places, thread, threads, barrier, now)
        gated(found, sizes, places, thread, threads)
        wait(barrier, threads)
        now += COUNTERS * 8
        found = project(own[DOWN:], places[HEARD], sizes, places, thread, threads, barrier, now)
        more = layer + 1 < sizes[LAYERS]
        weight = others[layer + 1, ATTENTION_NORM] if more else last_norm
        onward(found, weight, epsilon, sizes, places, thread, threads)
        wait(barrier, threads)
    sums = places[SUMS] + thread * sizes[BATCH] * sizes[STRIDE] * 4
    prepare(head[0], places[NORMED], sizes[STRIDE] * 4, sizes[BATCH], sums)
    pieces(
        head[0], places[NORMED], sizes[STRIDE] * 4, sums, sizes[BATCH], places[LOGITS],
        sizes[LOGITS_STRIDE] * 4, counters + sizes[LAYERS] * 4 * COUNTERS * 8, thread, threads,
    )  # fmt: skip
    wait(barrier, threads)


ARGUMENTS = 18  # of `step_of`


@started
def step_of(given, thread, threads):
    """`step`, of a model's layers, batch, head width, positions and its other arguments."""
    layers, rows, width, positions = given[0], given[1], given[2], given[3]
    step(
        thread, threads,
        carray(integers_at(given[4]), (layers, 7, MATRIX)),
        carray(integers_at(given[5]), (layers, 5)),
        carray(integers_at(given[6]), (1, MATRIX)),
        given[7],
        carray(floats_at(given[8]), 1)[0],
        carray(integers_at(given[9]), (layers, rows, 2)),
        carray(integers_at(given[10]), rows),
        carray(integers_at(given[11]), rows),
        carray(floats_at(given[12]), (positions, width)),
        carray(floats_at(given[13]), (positions, width)),
        carray(integers_at(given[14]), 9),
        carray(integers_at(given[15]), 9),
        given[16], given[17],
    )  # fmt: skip


if OPENMP:
    from t2local.models.groups.vectors import team_size, team_thread

    @cfunc("void(int64)", cache=True)
    def step_in_team(address):
        """`step_of` by each thread of a team of OpenMP's."""
        step_of(carray(integers_at(address), ARGUMENTS), int64(team_thread()), int64(team_size()))

    TEAM |= {step_of: step_in_team.address}
