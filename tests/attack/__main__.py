"""The long form: `PYTHONPATH=tests QKDRELAY_ATTACKS=20000 python -m attack`; QKDRELAY_SEED replays a run."""

from __future__ import annotations

import logging
import os
import sys

import structlog

from attack.campaign import RELAYS_OF_A_NETWORK, SEALED_EVERY, Campaign, seed


def main() -> int:
    """Attack QKDRELAY_ATTACKS relays, print the figures and whatever must not be."""
    relays = int(os.environ.get("QKDRELAY_ATTACKS", "20000"))
    networks = -(-relays // (SEALED_EVERY * RELAYS_OF_A_NETWORK))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    campaign = Campaign(seed())
    campaign.run(relays - networks * RELAYS_OF_A_NETWORK, networks)
    for wrong in campaign.wrong:
        print(wrong)
    print(campaign.figures())
    return 1 if campaign.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
