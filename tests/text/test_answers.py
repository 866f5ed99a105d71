"""What an answer says."""

import pytest

from reslora_sd.text.answers import letter_in, number_in, same_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so it is 5", 5),
        (" (9 - 4) = 5", 5),
        ("5 - 3 = 2", 2),
        ("5-3", 3),
        ("it is -3", -3),
        ("#### 1,234.5", 1234.5),
        ("$1,000,000", 1e6),
        ("The answer is: 12. But 13", 12),
        ("#### 7\n\n8 more", 7),
        ("1/2", 0.5),
        ("4/0", None),
        ("none", None),
        ("", None),
        ("3.", 3),
        ("\u22124", -4),
        ("room 12b costs 80%", 80),
        ("x = - 7.50 dollars", -7.5),
    ],
)
def test_the_final_number_of_an_answer(text, number):
    assert number_in(text) == number


def test_numbers_are_compared_as_numbers():
    assert same_number("5.00", 5) and same_number("$5", 5.0) and same_number("1,000", 1000)
    assert not same_number("50", 5) and not same_number("no idea", 5) and not same_number("4.99", 5)


@pytest.mark.parametrize(
    ("text", "letter"), [(" B", "b"), ("... it's a cat\n#### c", "c"), ("answer: d)", "d"), ("none", None), ("", None)]
)
def test_the_letter_of_an_answer(text, letter):
    assert letter_in(text, "abcd") == letter
