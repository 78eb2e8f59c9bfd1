"""Random coalitions on random networks: no wrong secret, no innocent named, delivered if enough good shares are left.

The long form is `PYTHONPATH=tests QKDRELAY_ATTACKS=20000 python -m attack`.
"""

from __future__ import annotations

import pytest

from attack.campaign import Campaign, seed

DIRECT, NETWORKS = 4_000, 80


@pytest.mark.parametrize(("direct", "networks"), [(DIRECT, 0), (0, NETWORKS)], ids=["decisions", "whole stack"])
def test_whatever_a_coalition_does_no_wrong_secret_is_delivered_and_no_innocent_is_named(capsys, direct, networks):
    campaign = Campaign(seed())
    campaign.run(direct, networks)
    with capsys.disabled():
        print(f"\n{campaign.figures()}")
    assert campaign.wrong == []
    for what in ("confirmed", "not confirmed", "with a dishonest coordinator", "messages refused"):
        assert campaign.count[what] > 0, campaign.figures()
