"""Answers as ETSI GS QKD 014 has them: JSON objects of its data formats."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final

from kme.applications import (
    KEY_COUNT_SHOWN_MAX,
    KEY_SIZE_BITS_DEFAULT,
    KEYS_PER_REQUEST_MAX,
    ApplicationError,
    ApplicationKey,
    PairStatus,
)
from kme.etsi014.questions import COMPROMISED
from qkdrelay.messages.keys import KEY_SIZE_BITS_MAX, KEY_SIZE_BITS_MIN

ROUTE: Final = "qkdrelay_route"
AGE: Final = "qkdrelay_age_s"


def status(found: PairStatus, master: str, slave: str) -> dict[str, Any]:
    """Return the status of a pair."""
    return {
        "source_KME_ID": found.source_kme,
        "target_KME_ID": found.target_kme,
        "master_SAE_ID": master,
        "slave_SAE_ID": slave,
        "key_size": KEY_SIZE_BITS_DEFAULT,
        "stored_key_count": min(found.stored_key_count, KEY_COUNT_SHOWN_MAX),
        "max_key_count": KEY_COUNT_SHOWN_MAX,
        "max_key_per_request": KEYS_PER_REQUEST_MAX,
        "max_key_size": KEY_SIZE_BITS_MAX,
        "min_key_size": KEY_SIZE_BITS_MIN,
        "max_SAE_ID_count": 0,
        "status_extension": {COMPROMISED: found.compromised},
    }


def container(keys: Sequence[ApplicationKey]) -> dict[str, Any]:
    """Return a key container: the keys, and what each withstands."""
    return {
        "keys": [
            {
                "key_ID": str(key.key_id),
                "key": base64.b64encode(key.key).decode(),
                "key_extension": {
                    COMPROMISED: key.compromised,
                    ROUTE: key.route,
                    AGE: int(key.age_s),
                },
            }
            for key in keys
        ]
    }


def error(found: ApplicationError) -> dict[str, Any]:
    """Return an error; details only where there is something to say."""
    answer: dict[str, Any] = {"message": str(found)}
    if found.details:
        answer["details"] = list(found.details)
    return answer
