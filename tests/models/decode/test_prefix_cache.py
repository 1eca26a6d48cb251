"""A cache is found under its own key only, cropped to what is shared, and handed over once."""

import torch
from transformers import DynamicCache

from t2local.models.decode.generate import Kept, PrefixCache


def kept(*rows: list[int]) -> Kept:
    cache = DynamicCache()
    states = torch.arange(len(rows[0]), dtype=torch.float32).expand(len(rows), 1, 1, -1).mT
    cache.update(states, states, 0)
    return Kept(ids=[list(row) for row in rows], cache=cache)


def test_the_longest_common_prefix_is_kept_and_the_rest_cropped():
    prefixes = PrefixCache()
    prefixes.put("z", kept([1, 2, 3, 4, 5]))
    found = prefixes.take("z", [1, 2, 3, 9, 9])
    assert found.ids == [[1, 2, 3]]
    assert found.cache.get_seq_length() == 3


def test_the_last_token_of_the_prompt_is_left_to_read():
    prefixes = PrefixCache()
    prefixes.put("z", kept([1, 2, 3]))
    assert prefixes.take("z", [1, 2, 3]).ids == [[1, 2]]


def test_another_key_another_row_count_or_another_beginning_give_nothing():
    prefixes = PrefixCache(capacity=3)
    for key in ("a", "b", "c"):
        prefixes.put(key, kept([1, 2, 3]))
    assert prefixes.take("other", [1, 2, 3]) is None
    assert prefixes.take("a", [1, 2, 3], rows=2) is None
    assert prefixes.take("b", [7, 2, 3]) is None
    assert prefixes.take("c", [1, 2, 3]) is not None


def test_rows_are_cropped_to_the_shortest_shared_prefix():
    prefixes = PrefixCache()
    prefixes.put("z", kept([1, 2, 3, 4], [1, 2, 8, 9]))
    found = prefixes.take("z", [1, 2, 3, 4, 5], rows=2)
    assert found.ids == [[1, 2], [1, 2]]


def test_an_entry_is_handed_over_once_and_the_oldest_goes():
    prefixes = PrefixCache(capacity=2)
    for key in ("a", "b", "c"):
        prefixes.put(key, kept([1, 2, 3]))
    assert prefixes.take("a", [1, 2, 3]) is None
    assert prefixes.take("b", [1, 2, 3]) is not None
    assert prefixes.take("b", [1, 2, 3]) is None
    prefixes.put("d", None)
    prefixes.clear()
    assert prefixes.take("c", [1, 2, 3]) is None
