"""Services are killed while relays are under way: each ends confirmed, with equal keys, or failed, with none."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from support import rabbitmq, stack
from support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]

ROUNDS, RELAYS_A_ROUND = 8, 6


@pytest.fixture(scope="module")
def network() -> Iterator[stack.Stack]:
    rabbitmq.require_containers(stack.IMAGE)
    with stack.running(lab=False) as running:
        yield running


def test_kills_lose_no_relay_and_never_part_the_ends(network: stack.Stack) -> None:
    seed = int(os.environ.get("QKDRELAY_SEED", random.randrange(2**32)))
    print(f"QKDRELAY_SEED={seed}")
    choice = random.Random(seed)
    services = sorted(network.containers)
    asked = []
    for _ in range(ROUNDS):
        for _ in range(RELAYS_A_ROUND):
            answer = network.coordinator("relay", "kme-1", "kme-8", "--timeout", "20", "--no-wait")
            # While the coordinator is down nothing can be asked: that is said, and nothing is promised.
            assert answer.code in (0, 3), answer.err
            if answer.code == 0:
                asked.append(answer.out.strip())
        for name in choice.sample(services, 2):
            network.containers[name].kill()
            network.containers[name].start()
    assert len(asked) >= ROUNDS * RELAYS_A_ROUND // 2

    def undecided() -> set[str]:
        answer = network.coordinator("relays", "--limit", "1000", "--json")
        if answer.code != 0:
            return set(asked)
        states = {relay["relay_id"]: relay["state"] for relay in answer.json()["relays"]}
        return {relay_id for relay_id in asked if states.get(relay_id) not in ("confirmed", "failed")}

    eventually(lambda: not undecided(), timeout_s=60, what="every accepted relay to end")
    relays = network.coordinator("relays", "--limit", "1000", "--json").json()["relays"]
    ended = {relay["relay_id"]: relay for relay in relays}
    confirmed = [relay_id for relay_id in asked if ended[relay_id]["state"] == "confirmed"]
    print(f"{len(asked)} relays, {len(confirmed)} confirmed, {2 * ROUNDS} kills")
    # The kills are short: what was under way goes on when the killed are back, well before the deadline.
    assert len(confirmed) >= len(asked) // 2
    assert all(ended[relay_id]["reason"] for relay_id in asked if relay_id not in confirmed)
    source, target = (
        eventually(lambda kme=kme: _as_decided(network, kme, asked, confirmed), what=f"{kme} to do as decided")
        for kme in ("kme-1", "kme-8")
    )
    assert source == target
    assert len(source) == len(set(source.values())) == len(confirmed)


def _as_decided(network: stack.Stack, kme: str, asked: list[str], confirmed: list[str]) -> dict[str, str] | None:
    """Return each confirmed relay's key at ``kme``, once all confirmed are there and no other."""
    keys = [key for key in network.all_keys(kme) if key["relay_id"] in asked]
    revealed = {key["relay_id"]: key["key"] for key in keys if "key" in key}
    pending = [key for key in keys if key["state"] not in ("delivered", "failed")]
    return revealed if sorted(revealed) == sorted(confirmed) and not pending else None
