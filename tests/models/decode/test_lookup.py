"""Guesses follow what was said before, and are made less often where they are wrong."""

from t2local.models.decode.lookup import FEW, MANY, PATIENCE, Lookup


def test_what_followed_the_last_three_tokens_is_guessed_to_follow_again():
    ids = [*range(20), 7, 8, 9]
    assert Lookup().guess(ids) == [10, 11, 12][:FEW]
    assert Lookup().guess([*range(20), 7, 8]) == []  # 19, 7, 8 is new
    assert Lookup().guess([1, 2]) == Lookup().guess([1, 2, 3]) == []


def test_the_latest_of_several_places_counts_and_no_guess_goes_beyond_the_end():
    assert Lookup().guess([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3])[0] == 5
    assert Lookup().guess([1, 1, 1, 1]) == [1]


def test_a_growing_sequence_is_read_once_and_found_whole():
    grown, ids = Lookup(), []
    for token in [*range(50), *range(50)]:
        ids.append(token)
        assert grown.guess(ids) == Lookup().guess(ids)


def test_right_guesses_make_longer_ones_and_wrong_ones_make_few():
    ids, sure, unsure = [*range(20), 7, 8, 9], Lookup(), Lookup()
    for _ in range(5):
        sure.learn(FEW, FEW)
        unsure.learn(FEW, 0)
    assert len(sure.guess(ids)) == MANY
    made = [bool(unsure.guess(ids)) for _ in range(3 * PATIENCE)]
    assert sum(made) == 3
