"""What things are called: each method and merge that the scripts know has a plain name, of which no two are equal."""

from app.draw_request import ADAPTER_CHOICES, BEST
from app.wording import labelled, method_name, variant_name, with_tip
from reslora_sd.runs.names import BASE, BASELINES, METHODS, UNMERGED


def test_every_method_and_merge_has_a_plain_name_of_its_own():
    methods, variants = [*METHODS, *BASELINES], [*ADAPTER_CHOICES, BASE]
    assert method_name("reslora_is") == "ResLoRA (input)" and variant_name(UNMERGED) == "as trained"
    for names, kind in ((methods, method_name), (variants, variant_name)):
        plain = [kind(name) for name in names]
        assert len(set(plain)) == len(plain)
        assert not [name for name in plain if "_" in name]
        assert [name for name in names if kind(name) == name] in ([], [BEST])
    assert labelled(["merged: exact"]) == [("merged exactly", "merged: exact")]


def test_what_is_not_ours_is_as_it_is_and_a_tip_holds_no_html():
    assert method_name("<b>") == variant_name("<b>") == "<b>"
    assert with_tip("<b>", "<b>") == "&lt;b&gt;"
    assert with_tip("LoRA", '"><b>') == '<span title="&quot;&gt;&lt;b&gt;">LoRA</span>'
