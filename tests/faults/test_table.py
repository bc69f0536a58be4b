"""docs/faults.md says what the tests do."""

from __future__ import annotations

import pytest

from . import table


def test_the_page_is_up_to_date() -> None:
    assert table.PAGE.read_text() == table.page(), "run python -m tests.faults.table"


def test_a_row_is_held_to_its_sentence_and_its_status() -> None:
    row = table.Fault("a switch pulled", "it is ... dark", "2 or 4", "nothing")
    row.check(4, "it is\nvery dark")
    for status, output in ((1, "it is very dark"), (2, "it is light"), (2, "Traceback: it is very dark")):
        with pytest.raises(AssertionError):
            row.check(status, output)
