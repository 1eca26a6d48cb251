from t2local.tasks.rows import Example, too_long


def test_the_places_of_rows_above_the_most_are_given_in_order():
    rows = [Example("x" * length, "") for length in (3, 5, 4, 9)]
    assert too_long(rows, lambda row: len(row.prompt), 4) == [1, 3]
    assert too_long(rows, lambda row: len(row.prompt), 9) == []
    assert too_long([], lambda row: 1 / 0, 0) == []
