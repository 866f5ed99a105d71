"""What an answer says."""

import re

import pytest

from reslora_sd.text.answers import cut, letter_in, number_in, same_number


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
        ("#### 5\nQuestion: And now?\nAnswer: more\n#### 3", 5),
        ("####\n5", 5),
        (".5", 0.5),
        ("it is -.25", -0.25),
        ("the end...5", 5),
        ("1e3", 1000),
        ("2.5E-2 m", 0.025),
        ("12e", 12),
        ("1e999999999", None),
        ("9" * 5000, None),
        ("3 1/2 hours", 3.5),
        ("#### -3 1/2", -3.5),
        (r"$\frac{3}{4}$", 0.75),
        (r"The answer is: $-\dfrac{3}{4}$", -0.75),
        (r"\boxed{2\frac{1}{2}}", 2.5),
        (r"\frac34", 0.75),
        (r"\frac{1}{0}", None),
        (r"#### 12{,}500", 12500),
        (r"\$1,\!250", 1250),
        ("$-5", -5),
        ("-$5.50", -5.5),
        ("(-5)", -5),
        ("#### 5kg", 5),
        ("#### 1,234 apples", 1234),
        ("#### 5%", 5),
        ("12,34", 34),
        ("f(2)-3", 3),
        ("#### 5\n3/4 of x", 5),
        ("= 3\n1/2", 3),
        ("6\n\\frac{3}{4}", 0.75),
        ("= 5 -\n 4", 5),
        (r"\frac{1}{-2}", -0.5),
        (r"\frac{-3}{4}", -0.75),
        (r"\frac{1.5}{2}", 0.75),
        (r"\frac{1,000}{4}", 250),
        ("1,000 1/2", 1000.5),
        ("3/4.5", 3 / 4.5),
        ("#### x \n\nQuestion: 7 = 8", 8),
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


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (" a man has 3 pens , so he has 2 left", None),
        ("it takes a day . answer b", "b"),
        ("he is a good man . the answer is a .", "a"),
        ("the answer is a number", None),
        ("the answer is b because it is even", "b"),
        ("so the correct option is ( c )", "c"),
        ("a ) 38", "a"),
        ("(E)", "e"),
        ("hence (d)", "d"),
        ("answer a\n#### b\nQuestion: more\n#### c", "b"),
        ("#### a cat", None),
        ("answer : e", "e"),
        ("#### b because", "b"),
        ("#### **d**", "d"),
        ("#### c 12", "c"),
        ("#### the answer is c", "c"),
        ("a ) 38 , b ) 27 , c ) 30 . the answer is c", "c"),
        ("e : 5 the answer is b", "b"),
        ("A. B. the answer is d", "d"),
        ("the answer is e.g. 5", None),
        ("b) since option c is wrong", "b"),
    ],
)
def test_an_option_counts_where_it_is_chosen(text, letter):
    assert letter_in(text, "abcde") == letter


def test_a_text_is_cut_where_its_answer_ends():
    stop = re.compile(r"#### \d+(?=\n)|(?=\nQuestion:)")
    assert cut("so\n#### 5\nQuestion: x", stop) == "so\n#### 5"
    assert cut("so 5\nQuestion: x\n#### 3\n", stop) == "so 5"
    assert cut("so 5", stop) == "so 5"
