"""Random runs of relay.pml, step by step through the code of both ends and of the coordinator, as the model has it."""

from collections import Counter
from itertools import count

import pytest

from support.relay_replay import RelayReplay
from support.traces import trace

RUNS = 60
STEPS = {
    "start", "start repeated", "confirm", "expect", "expect repeated", "rebuild", "share late", "source cancel",
    "target cancel", "source copy", "target copy", "source restore", "target restore", "source late", "target late",
    "source gives up", "target gives up",
}  # fmt: skip
OF_A_LIAR = {"confirm forged", "start again", "expect again"}
OF_PEOPLE = {"deliver"}
OF_SUPPLY = {"source restart"}
OF_A_COORDINATOR = {
    "coordinator begin", "coordinator rebuilt", "coordinator confirmed", "coordinator refused late", "coordinator late",
    "coordinator overtaken",
}  # fmt: skip


@pytest.mark.parametrize("supply", [False, True])
@pytest.mark.parametrize("lying", [False, True])
def test_the_code_takes_every_step_as_the_model_does(tmp_path, lying, supply):
    switches = [*(["LYING"] if lying else []), *(["SUPPLY"] if supply else [])]
    wanted = STEPS | (OF_A_LIAR if lying else OF_A_COORDINATOR) | (OF_SUPPLY if supply else OF_PEOPLE)
    taken = Counter()
    for seed in count():
        replay = RelayReplay(tmp_path / str(seed), supply=supply)
        for step in trace("relay.pml", *switches, seed=seed):
            replay.take(step)
            taken[step.name] += 1
        if seed >= RUNS and wanted <= taken.keys():
            break
        assert seed < 20 * RUNS, wanted - taken.keys()
