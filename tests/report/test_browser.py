"""The page in a real browser; left out where none is installed."""

import pytest

from benchmarks.browser import Browser, find_browser
from stillbit.report.page import build_page
from tests.report.histories import LAYERS, float_history, history, old_history, recipe

PROGRAM = find_browser()
EVIL = """</script><script>document.title = "evil"</script><img src=x onerror="document.title = 'evil'">"""

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium or Chrome is installed"),
]


@pytest.fixture(scope="module")
def browser():
    with Browser(PROGRAM, 390, 844) as started:
        yield started


@pytest.fixture
def show(browser, tmp_path):
    """Show runs at a width; assert that nothing went wrong."""

    def call(*histories, width=390, **preferences):
        path = tmp_path / "page.html"
        path.write_text(build_page(histories), encoding="utf-8")
        browser.resize(width, 844)
        browser.prefer(**preferences)
        browser.open(path.as_uri())
        browser.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert not browser.complaints()
        return browser

    return call


def press(browser, key):
    """Press and let go of a key."""
    for kind in ("keyDown", "keyUp"):
        browser.send(
            "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"ArrowLeft": 37, "ArrowUp": 38, "Tab": 9}[key]
        )


def titles(browser):
    """Return the titles of the charts that are seen."""
    return browser.evaluate("[...document.querySelectorAll('figure:not([hidden]) h3')].map((title) => title.textContent)")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    ("histories", "charts"),
    [
        pytest.param([history()], 15, id="one"),
        pytest.param([history(), history("two", recipe=recipe(freezing=None)), float_history(), old_history()], 17, id="several"),
        pytest.param([float_history()], 4, id="float"),
        pytest.param([old_history()], 4, id="old"),
    ],
)
def test_every_chart_is_drawn_with_words_for_it_and_nothing_is_wider_than_the_window(show, histories, charts, width):
    browser = show(*histories, width=width)
    assert len(titles(browser)) == charts
    pictures = browser.evaluate(
        "[...document.querySelectorAll('figure:not([hidden]) .plot > svg')].map((svg) =>"
        " [svg.getAttribute('role'), svg.getAttribute('aria-label').length > 40, svg.childElementCount > 5, svg.clientWidth > 300])"
    )
    assert pictures == [["img", True, True, True]] * charts
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_layer_and_time_are_chosen_by_keys(show):
    browser = show(history())
    assert f"Latent weights of {LAYERS[2]}" in titles(browser)  # the most restless one
    browser.evaluate("document.querySelector('#layer-controls select').focus()")
    press(browser, "ArrowUp")
    assert f"Latent weights of {LAYERS[1]}" in titles(browser)
    browser.evaluate("document.querySelector('#layer-controls input').focus()")
    assert browser.evaluate("document.activeElement.getAttribute('aria-valuetext')") == "step 100, epoch 10"
    press(browser, "ArrowLeft")
    assert browser.evaluate("document.activeElement.getAttribute('aria-valuetext')") == "step 80, epoch 8"
    assert "at step 80" in browser.evaluate("document.querySelector('#weight-charts .plot > svg').getAttribute('aria-label')")


def test_the_first_stop_of_the_tab_key_skips_to_the_figures(show):
    browser = show(history())
    press(browser, "Tab")
    assert browser.evaluate("[document.activeElement.textContent, document.activeElement.getBoundingClientRect().top >= 0]") == [
        "Skip to the figures",
        True,
    ]


def test_a_data_table_is_made_when_it_is_opened(show):
    browser = show(history())
    browser.evaluate("document.querySelector('#batchnorm details').open = true; new Promise((done) => setTimeout(done, 50))")
    rows = browser.evaluate(
        "[...document.querySelectorAll('#batchnorm tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    assert rows == [["bn0", "0.1", "0"], ["bn1", "0.2", "0.001"], ["bn2", "0.3", "0.002"]]


def test_the_horizontal_axis_can_count_epochs(show):
    browser = show(history())
    browser.evaluate(
        "(() => { const [axis] = document.querySelectorAll('select'); axis.value = 1; axis.dispatchEvent(new Event('change')); })()"
    )
    assert browser.evaluate("[...document.querySelectorAll('#training-charts .axis')].map((text) => text.textContent).includes('epoch')")


def test_the_theme_is_the_systems_until_the_button_is_pressed(show):
    browser = show(history(), prefers_color_scheme="dark")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 31)"
    browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("document.getElementById('theme').getAttribute('aria-pressed')") == "false"


def test_nothing_moves_for_readers_who_prefer_that(show):
    shown = "getComputedStyle(document.querySelector('.play')).display !== 'none'"
    assert show(history()).evaluate(shown)
    assert not show(history(), prefers_reduced_motion="reduce").evaluate(shown)


def test_another_run_is_shown_by_layer(show):
    browser = show(float_history(), history("three", num_epochs=3))
    assert f"Latent weights of {LAYERS[2]}" in titles(browser)  # the first run that has weights on a grid
    browser.evaluate(
        "(() => { const run = document.querySelector('#run-controls select'); run.value = 0; run.dispatchEvent(new Event('change')); })()"
    )
    assert not [title for title in titles(browser) if "Latent" in title]
    note = "document.querySelector('#weights .missing-note').textContent"
    assert browser.evaluate(note) == "float: The weights are floats: there is no grid for them to oscillate on."


def test_names_of_a_record_run_no_script(show):
    one = history(EVIL, status=EVIL, recipe=recipe(model={"name": EVIL}), steps={EVIL: history().steps["loss"]})
    browser = show(one, history("two", recipe=recipe(freezing=None)))
    browser.evaluate(
        "document.querySelectorAll('details').forEach((one) => { one.open = true; }); new Promise((done) => setTimeout(done, 100))"
    )
    assert browser.evaluate("document.title") != "evil"
    assert browser.evaluate("document.images.length") == 0
    assert not browser.complaints()
