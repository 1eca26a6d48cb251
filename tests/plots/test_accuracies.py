from t2local.plots.bars import page, plot_composition, plot_few_rows

COMPOSED = [
    {"reasoning": a, "math": b, "set": name, "adapted": (a + b) / 2}
    for a in (0.0, 1.0)
    for b in (0.0, 1.0)
    for name in ("one", "two")
]
FEW = [
    {"rows": n, "method": m, "set": s, "adapted": 0.5, "ci95": [0.4, 0.7]}
    for n in (50, 10)
    for m in ("SVF", "LoRA")
    for s in (f"its {n} training rows", "arc_easy")
]


def test_each_set_has_its_heat_map():
    figure = plot_composition(COMPOSED)
    assert [list(trace.z) for trace in figure.data] == [[0, 50, 50, 100]] * 2


def test_training_and_held_out_rows_are_told_apart_with_intervals():
    figure = plot_few_rows(FEW)
    names = {trace.name: trace for trace in figure.data}
    assert len(names) == 4
    held_out = names["LoRA, held out"]
    assert list(held_out.x) == ["50", "10"]
    assert [round(value) for value in held_out.error_y.array] == [20, 20]
    assert names["LoRA, its training rows"].error_y.array is None


def test_a_page_needs_no_network_and_shows_what_there_is():
    found = {"about": {"command": "prove <all>"}, "sections": {"composition": COMPOSED}}
    text = page(found)
    assert "&lt;all>" in text
    assert 'src="http' not in text
    assert page({"about": {}, "sections": {}}).startswith("<!doctype html>")
