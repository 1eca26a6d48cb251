"""Parsing in many threads, where garbage is collected in the middle of it."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from t2local.tasks import syntax

DEEP = "[1, (2, 3, (4, 5)), [6, [7, [8]]]]"


@pytest.fixture
def much_garbage():
    """Another thread gets its turn whenever garbage is collected, which is all the time."""
    before, pause = gc.get_threshold(), lambda *_: time.sleep(0.0002)
    gc.callbacks.append(pause)
    gc.set_threshold(100)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(pause)


@pytest.mark.parametrize("read", [syntax.parse, syntax.parse_expression, syntax.literal])
def test_threads_do_not_disturb_each_other(read, much_garbage):
    source = f"[{', '.join([DEEP] * 30)}]"
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, [source] * 12))
