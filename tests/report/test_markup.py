import json

import pytest

from stillbit.report.markup import Markup, data_tag, join, tag


def test_children_and_attributes_are_escaped_and_markup_is_not():
    assert tag("p", "a<b>&", tag("i", "'"), title='"x"') == '<p title="&quot;x&quot;">a&lt;b&gt;&amp;<i>&#x27;</i></p>'
    assert join(("<", Markup("<br>"))) == "&lt;<br>"


def test_names_of_attributes_and_void_elements():
    assert tag("div", class_="note", aria_label="x", id=None) == '<div class="note" aria-label="x"></div>'
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'


@pytest.mark.parametrize("text", ["</script>", "<!--", "<script", "]]>", "\u2028", "&amp;", '"', "\ud800"])
def test_data_holds_any_text_and_no_character_that_could_end_it(text):
    found = data_tag("x", {"name": text})
    content = found.removeprefix('<script type="application/json" id="x">').removesuffix("</script>")
    assert not set("<>&\u2028") & set(content)
    assert json.loads(content) == {"name": text}


def test_data_that_is_not_finite_is_an_error_of_ours():
    with pytest.raises(ValueError, match="JSON compliant"):
        data_tag("x", float("nan"))
