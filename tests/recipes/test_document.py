import pytest

from stillbit.errors import RecipeError
from stillbit.recipes import document


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("1e-5", 1e-5, id="exponent_without_dot"),
        pytest.param("2.5e-05", 2.5e-5, id="exponent"),
        pytest.param("-3E4", -3e4, id="capital_exponent"),
        pytest.param("128", 128, id="integer"),
        pytest.param("0.5", 0.5, id="float"),
        pytest.param(".inf", float("inf"), id="infinity"),
        pytest.param("W4A4", "W4A4", id="text"),
        pytest.param("1e", "1e", id="no_exponent"),
        pytest.param("{a: [1, null, true]}", {"a": [1, None, True]}, id="nested"),
        pytest.param("", None, id="empty"),
    ],
)
def test_parse(text, expected):
    value = document.parse(text, origin="here")
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: 1\nb: 2\na: 3\n", "here, line 3: key 'a' stands twice", id="key_twice"),
        pytest.param("a: [1\n", "here, line 2: expected ',' or ']', but got '<stream end>'", id="open_bracket"),
        pytest.param(
            "a: !!python/name:os.system\n",
            "here, line 1: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'",
            id="python_object",
        ),
        pytest.param(
            "a: \x00",
            'here: unacceptable character #x0000: special characters are not allowed in "<unicode string>", position 3',
            id="control_character",
        ),
    ],
)
def test_errors_have_their_place(text, message):
    with pytest.raises(RecipeError) as caught:
        document.parse(text, origin="here")
    assert str(caught.value) == message


def test_render_reads_back_equal_in_the_same_order():
    mapping = {"z": 1e-5, "a": [0.1, None, True, "1e-5", "ü"], "m": {"x": 2.5e-5, "no": "off"}}
    again = document.parse(document.render(mapping), origin="here")
    assert again == mapping
    assert list(again) == list(mapping)
