from t2local.plots.bars import memory_parts, plot_memory

ROWS = {"chat": {"weights": 5 * 10**9, "KV cache": 0}, "training": {"weights": 5 * 10**9}}


def test_parts_are_in_gb_and_empty_ones_are_left_out():
    assert [(p.row, p.name, p.gb) for p in memory_parts(ROWS)] == [
        ("chat", "weights", 5.0), ("training", "weights", 5.0),
    ]  # fmt: skip


def test_the_axis_reaches_beyond_the_memory_there_is():
    figure = plot_memory(ROWS, 12 * 10**9)
    assert figure.layout.xaxis.range[1] > 12
    assert figure.layout.barmode == "stack"
    assert plot_memory({}, 0).layout.annotations[0].text.startswith("Choose a model")
