"""The data formats of ETSI GS QKD 014, as JSON schemas: of everything that a test is answered."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).parent.parent / "vectors" / "etsi_gs_qkd_014.schema.json"


@cache
def validator(data_format):
    """Return what validates one of the data formats, by the name of its definition."""
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator({**schema, "$ref": f"#/$defs/{data_format}"})


def validate(path, status, answer):
    """Raise jsonschema's ValidationError unless an answer has the data format that is due."""
    data_format = "status" if path.partition("?")[0].rstrip("/").endswith("/status") else "key_container"
    validator(data_format if status == 200 else "error").validate(answer)
