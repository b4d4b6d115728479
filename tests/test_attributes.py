"""The vocabularies: scales, words, and how they are looked up."""

from __future__ import annotations

import numpy as np
import pytest

from lesionlab.attributes import (
    LI_CATEGORIES,
    LIDC_RATINGS,
    RATING_NAMES,
    Attribute,
    category,
    rating,
)


def test_words_agree_with_pylidc() -> None:
    """pylidc names every step in the same direction: first letters of the first word agree."""
    from lesionlab.sources.lidc.pylidc_bridge import import_pylidc

    annotation = import_pylidc().Annotation()
    for attribute in LIDC_RATINGS:
        stored = {"internal_structure": "internalStructure"}.get(attribute.name, attribute.name)
        for code, word in attribute.words.items():
            annotation.__dict__[stored] = code  # pylidc refuses plain assignment
            theirs = getattr(type(annotation), stored[0].upper() + stored[1:]).fget(annotation)
            theirs = theirs.replace("No ", "None ")
            assert word.split()[0][:4].lower() == theirs.split()[0][:4].lower(), (word, theirs)


def test_nine_categories_with_27_classes() -> None:
    assert len(LI_CATEGORIES) == 9
    assert sum(len(a.words) for a in LI_CATEGORIES) == 27  # Li 2021, section 4.2
    assert category("lesion_location").unknown == {0: "Several lobes"}


@pytest.mark.parametrize("attribute", LIDC_RATINGS, ids=RATING_NAMES)
def test_unit_scale_and_back(attribute: Attribute) -> None:
    codes = np.array(attribute.codes, dtype=float)
    unit = attribute.to_unit(codes)
    assert unit[0] == 0
    assert unit[-1] == 1
    np.testing.assert_allclose(attribute.from_unit(unit), codes)


def test_look_up_by_name_and_short_name() -> None:
    assert rating("Cal") is rating("calcification")
    with pytest.raises(LookupError, match="'margn'; did you mean 'margin'"):
        rating("margn")
    with pytest.raises(LookupError, match="there are lesion_type"):
        category("xyz")
