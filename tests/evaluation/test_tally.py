from t2local.evaluation.tally import Record, RecordFile, best_of, summary
from t2local.evaluation.variants import asking, base, mixed
from t2local.statistics import paired_difference, wilson
from t2local.svf import Mixture


def records(marks, chosen=""):
    probabilities = {"math": 0.5, "code": 0.5} if chosen else {}
    return {
        i: Record(i, f"p{i}", "a", "w", mark == "1", {}, chosen, probabilities, 0.5, 1.0, 2)
        for i, mark in enumerate(marks)
    }


def test_results_have_wilson_and_paired_intervals_and_sums(subject, choosing):
    one, other = base(subject), mixed(subject, "math", Mixture({"math": 1.0}))
    cells = {("colours", "base"): records("1100"), ("colours", "math"): records("1110")}
    found = summary(subject, [choosing], [one, other], cells, {}, oracle=True)
    first, second, oracle = found.results
    assert (first.accuracy, first.ci95, first.difference) == (0.5, wilson(2, 4), None)
    assert second.difference == paired_difference([1, 1, 0, 0], [1, 1, 1, 0])
    assert (second.first_pass_s, second.second_pass_s, second.tokens) == (2.0, 4.0, 8)
    assert second.trained == subject.experts["math"].size
    assert first.trained == 0
    assert (oracle.strategy, oracle.correct, oracle.trained) == ("oracle", 3, None)


def test_the_oracle_is_right_where_any_part_is(subject):
    parts = [records("1000"), records("0100"), records("0001")]
    assert [r.right for r in best_of(parts).values()] == [True, True, False, True]


def test_confusion_has_a_row_a_topic_and_needs_several_tasks(subject, choosing, writing):
    reader = asking(subject, "prompt")
    cells = {
        ("colours", "prompt"): records("11", "math"),
        ("sums", "prompt"): {**records("1", "code"), 1: records("11", "math")[1]},
    }
    assert summary(subject, [choosing], [reader], cells, {}, False).confusions == ()
    (matrix,) = summary(subject, [choosing, writing], [reader], cells, {}, False).confusions
    assert (matrix.topics, matrix.labels) == (("math", "code"), ("math", "code"))
    assert matrix.counts == ((2, 0), (1, 1))
    assert matrix.accuracy == 0.75


def test_a_torn_line_is_dropped_and_the_next_one_is_whole(tmp_path):
    file = RecordFile(tmp_path / "r.jsonl")
    file.append(list(records("10").values()))
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-5])
    assert list(file.read()) == [0]
    file.append([records("10")[1]])
    assert file.read() == records("10")


def test_of_two_lines_for_one_prompt_the_first_counts(tmp_path):
    file = RecordFile(tmp_path / "r.jsonl")
    file.append([records("1")[0]])
    file.append([records("0")[0]])
    assert file.read() == records("1")
