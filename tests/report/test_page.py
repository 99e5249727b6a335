import dataclasses
from pathlib import Path

import pytest

from stillbit.report.missing import missing
from stillbit.report.page import build_page, distinct_names
from tests.report.histories import float_history, history, old_history, recipe
from tests.report.reading_html import Page

SECTIONS = ("runs", "training", "oscillation", "weights", "scales", "batchnorm", "size", "recipes")
EVIL = """</script><script>alert(1)</script><img src=x onerror="alert(2)">'&amp;"""


def test_a_page_has_every_section_and_its_data():
    found = Page.of(build_page([history()]))
    assert [each for each in found.ids if each in SECTIONS] == list(SECTIONS)
    assert {f"#{each}" for each in SECTIONS} <= set(found.addresses)
    assert found.texts["h1"] == ["small_mobilenet, digits, W3A3 LSQ, freezing"]
    assert set(found.data) == {"data", "details-0"}
    assert "89.50 %" in found.texts["dd"]  # accuracy of epoch 10
    assert "torch 2.15.0" in " ".join(found.texts["dd"])
    assert "final_threshold: 0.006" in found.texts["code"][0]


def test_a_page_asks_no_network_and_its_policy_allows_none():
    text = build_page([history(), float_history()])
    found = Page.of(text)
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    assert "default-src 'none'" in text
    rest = text.replace("http://www.w3.org/2000/svg", "")  # the name of a namespace
    assert "http:" not in rest
    assert "https:" not in rest
    assert all(word not in "".join(found.raw) for word in ("fetch(", "XMLHttpRequest", "import(", "@import", "url("))


def test_nothing_of_a_record_becomes_an_element():
    one = history(EVIL, folder=Path("runs") / "x", status=EVIL, reason=EVIL, hardware={EVIL: EVIL}, versions={EVIL: EVIL})
    evil_layer = dataclasses.replace(one.layers[0], facts=dataclasses.replace(one.layers[0].facts, name=EVIL, quantizer=EVIL))
    one = dataclasses.replace(
        one,
        recipe=recipe(model={"name": EVIL, EVIL: EVIL}, training={"seed": EVIL}),
        steps={EVIL: one.steps["loss"]},
        layers=(evil_layer,),
        batchnorms=(dataclasses.replace(one.batchnorms[0], layer=EVIL),),
    )
    for histories in ([one], [one, history()]):
        found = Page.of(build_page(histories))
        assert len(found.raw) == 2  # our style and our script
        assert not found.handlers
        assert "img" not in found.texts
        assert found.data["details-0"]["layers"][0]["name"] == EVIL


def test_several_runs_are_compared_by_recipe():
    runs = [history(f"seed{seed}", recipe=recipe(training={"seed": seed}), seconds=60.0 + 10 * seed) for seed in range(3)]
    found = Page.of(build_page([*runs, float_history()]))
    assert found.texts["h1"] == ["4 runs of small_mobilenet, digits"]
    assert found.texts["caption"][:2] == ["Comparison by recipe", "Each run"]
    assert {"70 s ± 10 s", "89.50 %"} <= set(found.texts["span"])
    assert {"60 s to 80 s", "in all 3", "seeds 0, 1, 2"} <= set(found.texts["small"])
    assert [run["group"] for run in found.data["data"]["runs"]] == [0, 0, 0, 1]
    assert {f"details-{place}" for place in range(4)} <= set(found.data)


def test_runs_that_are_not_complete_are_left_out_of_a_mean_and_said():
    other = history("cut", status="unfinished", epochs={}, recipe=recipe(training={"seed": 1}))
    found = Page.of(build_page([history(), other]))
    assert "1 not complete" in found.texts["small"]
    assert "89.50 %" in found.texts["span"]
    assert "… unfinished" in found.texts["td"]


def test_a_failed_run_says_why():
    found = Page.of(build_page([history(status="DivergedError", reason="loss is nan at step 7")]))
    assert "✗ DivergedError (loss is nan at step 7)" in found.texts["dd"]


@pytest.mark.parametrize(
    ("run", "sections"),
    [
        pytest.param(history(), set(), id="whole"),
        pytest.param(float_history(), {"oscillation", "weights", "scales", "batchnorm"}, id="float"),
        pytest.param(old_history(), {"oscillation", "weights", "scales", "batchnorm", "size"}, id="old"),
        pytest.param(
            history(steps={}, epochs={}, layers=(), activations=(), batchnorms=(), float_bytes=0),
            {"training", "oscillation", "weights", "scales", "batchnorm", "size"},
            id="nothing",
        ),
    ],
)
def test_what_a_record_lacks_is_said(run, sections):
    assert set(missing(run)) == sections
    found = Page.of(build_page([run]))
    assert set(found.data["data"]["runs"][0]["missing"]) == sections
    assert len(found.texts.get("li", [])) == len(SECTIONS) + len(sections)


def test_runs_of_equal_names_get_their_parents():
    runs = [history("w3", folder=Path(folder)) for folder in ("/a/b/w3", "/a/c/w3", "/d/c/w3")]
    assert distinct_names(runs) == ["a/b/w3", "a/c/w3", "d/c/w3"]
    assert distinct_names(runs[:1]) == ["w3"]
