"""Answers of the coordinator, plans and analyses as data: what `--json` prints and the page is given."""
