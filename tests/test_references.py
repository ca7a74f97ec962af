"""References with options, and lists of them."""

import pytest

from comdefend.errors import RequestError
from comdefend.references import split_list, split_reference


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("fgsm,bim", ["fgsm", "bim"]),
        ("fgsm, bim:steps=50,step=0.1 ,pgd:steps=5", ["fgsm", "bim:steps=50,step=0.1", "pgd:steps=5"]),
        ("2,8,,16", ["2", "8", "16"]),
        (" ,", []),
        ("a=1", ["a=1"]),
    ],
)
def test_a_list_keeps_the_options_of_a_reference_together(text: str, parts: list[str]) -> None:
    assert split_list(text) == parts


def test_options_are_numbers_where_they_look_like_some() -> None:
    found = split_reference("a:b=1,c=0.5,d=x=y", what="thing", known=["a"])
    assert found == ("a", {"b": 1, "c": 0.5, "d": "x=y"})


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("aple", "no thing 'aple'; did you mean apple?"),
        ("apple:b", "'b' must have the form"),
        ("x", "known: apple"),
    ],
)
def test_what_makes_no_sense_is_refused(reference: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        split_reference(reference, what="thing", known=["apple"])
