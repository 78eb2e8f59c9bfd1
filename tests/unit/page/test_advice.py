"""What the page advises is what docs/operating.md says."""

import re
from pathlib import Path

from qkdrelay_page.advice import ADVICE

TEXT = (Path(__file__).parents[3] / "docs" / "operating.md").read_text()
TABLE = TEXT.partition("\n## What the page shows under Attention\n")[2].partition("\n## ")[0]


def test_each_line_stands_in_the_document_and_no_other():
    rows = dict(re.findall(r"^\| ([A-Za-z ]+) \| (.*) \(\[more\]\(#[a-z-]+\)\) \|$", TABLE, re.MULTILINE))
    assert rows == {kind: advice.text for kind, advice in ADVICE.items()}


def test_each_names_a_heading_that_is_there():
    headings = set(re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE))
    assert {advice.section for advice in ADVICE.values()} <= headings
