"""The table of failures: what a report says of each."""

from pathlib import Path

import pytest

from tests.recovery.failures import FAILURES
from tests.recovery.table import ABSENT, PAGE, Outcome, markdown, missing, read, summary

REPORT = """<?xml version="1.0"?>
<testsuites><testsuite>
<testcase classname="tests.unit.test_a" name="test_one[x]"><properties>
<property name="failure" value="2"/><property name="failure" value="3"/>
</properties></testcase>
<testcase classname="tests.unit.test_a" name="test_one[y]"><properties>
<property name="failure" value="2"/></properties><failure message="no"/></testcase>
<testcase classname="tests.unit.test_a" name="test_two"><properties>
<property name="failure" value="4"/></properties><skipped message="no mount"/>
</testcase>
<testcase classname="tests.unit.test_a" name="test_three"/>
</testsuite></testsuites>
"""


@pytest.fixture
def found(tmp_path: Path):
    (tmp_path / "report.xml").write_text(REPORT)
    return read(tmp_path / "report.xml")


def test_each_row_gets_its_outcomes(found):
    assert set(found) == {2, 3, 4}
    assert found[3] == [Outcome("tests/unit/test_a.py", "test_one", "passed")]
    assert summary(found[2]) == "**1 of 2 failed**"
    assert summary(found[3]) == "1 passed"
    assert summary(found[4]) == "skipped: no mount"
    assert summary([]) == "–"


def test_a_row_is_proved_by_tests_of_which_none_fails(found):
    proved = {3, *ABSENT}
    assert missing(found) == [number for number in FAILURES if number not in proved]


def test_the_table_has_every_row(found):
    rows = markdown(found).splitlines()
    numbers = [row.split("|")[1].strip() for row in rows[2:]]
    assert [n for n in numbers if n] == [str(number) for number in FAILURES]
    assert "| tests/unit/test_a.py: `one` | 1 passed |" in "\n".join(rows)


def test_there_are_forty_four(found):
    assert list(FAILURES) == list(range(1, 45))


def test_the_page_has_a_place_for_it():
    page = PAGE.read_text()
    assert "<!-- failures -->\n" in page and "<!-- end of failures -->\n" in page
