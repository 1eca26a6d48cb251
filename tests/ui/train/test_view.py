"""What the tab Train says of a person's rows."""

import pytest

from t2local.tasks.uploads import keep_text, read_draft
from t2local.ui.train import view

ROWS = "prompt,answer\n" + "".join(f"What is {i}?,answer {i}\n" for i in range(40))


@pytest.mark.parametrize(
    ("share", "held_out", "said"),
    [
        (0.1, 4, "Fewer than 6 held-out rows cannot prove a gain"),
        (0.25, 10, "At least 6 of these 10 have to come out better to prove a gain"),
    ],
)
def test_what_the_held_out_rows_can_prove(share, held_out, said):
    html = view.parts_html(read_draft(str(keep_text(ROWS))), share)
    assert f"<b>{held_out}</b>" in html
    assert said in html
