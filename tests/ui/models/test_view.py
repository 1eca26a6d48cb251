from dataclasses import replace

from t2local.engine.loading import sizing
from t2local.engine.requests import EngineStatus
from t2local.models.fit.automatic import offers
from t2local.models.fit.memory import named_card
from t2local.models.storage import BASES
from t2local.ui.models import view as cards

READY = EngineStatus(
    "Ready", 1.0, True, None, "me/<model>", "bfloat16", "nf4", 8_500_000_000, "cuda:0", 8192,
    basis_bytes=2_800_000_000, basis="int8", source="me/<model>", why="chosen last time",
)  # fmt: skip
LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"


def test_the_loaded_model_with_all_its_facts():
    html = cards.loaded_html(READY, has_experts=True)
    for fact in ("me/&lt;model&gt;", "5.7 GB, NF4", "2.8 GB, int8", "cuda:0", "chosen last time"):
        assert fact in html
    assert "no experts" not in html
    assert "Train one" in cards.loaded_html(READY, has_experts=False)


def test_what_happened_to_another_model_stays_readable():
    html = cards.loaded_html(replace(READY, note="'x' is <broken>."), has_experts=True)
    assert "'x'" not in html.replace("&#x27;", "'").replace("'x' is &lt;broken&gt;.", "")
    assert "&lt;broken&gt;" in html


def test_every_offer_has_a_verdict_and_one_is_suggested():
    found = offers(named_card(12))
    html = cards.catalogue_html(found, (), (), LLAMA, "embedded")
    assert html.count('class="verdict ') == len(found)
    assert html.count("suggested for this machine") == 1
    assert html.count("in use now") == 1
    assert html.count('aria-pressed="true"') == 1
    assert html.count(">gated<") == sum(offer.entry.gated for offer in found)


def test_a_half_fetched_model_says_so():
    html = cards.catalogue_html(offers(named_card(12)), (), (LLAMA,), "", "")
    assert html.count("half downloaded") == 1


def test_the_table_marks_the_way_it_would_be_held():
    found = sizing(LLAMA, named_card(12))
    html = cards.table_html(found)
    assert html.count("<td") == 3 * len(BASES)
    assert html.count('aria-current="true"') == 1
    assert "does not fit" in html
    assert "4-bit weights" in cards.sizing_html(found, None)


def test_links_and_commands_in_a_sentence_can_be_used_and_markup_cannot():
    html = cards.linked("accept <it> on https://huggingface.co/a/b, then `hf auth login`")
    assert "&lt;it&gt;" in html
    assert '<a href="https://huggingface.co/a/b"' in html
    assert "<code>hf auth login</code>" in html
