"""Random runs of assignment.pml, step by step through the code of both sides, as the model has it."""

from collections import Counter
from itertools import count, pairwise

import pytest

from support.assignment_replay import AssignmentReplay
from support.traces import trace

RUNS = 20
STEPS = {
    "cut", "assign", "assign altered", "answer", "answer again", "answer forged", "refuse range", "refuse again",
    "hand out", "fetch", "fetch in vain", "peer started", "source over", "target over", "source restart",
    "target copy", "target restore", "strike", "take in",
}  # fmt: skip
AT_FIRST = {"begin", "rebuild", "confirm", "fail"}
OF_A_LIAR = {"refuse sae", "refuse unknown-relay", "refuse range, the byte raised", "refuse range, the tag raised"}


def cursors(step):
    return {after["relay"]: after["cursor"].split(",") for kind, after in step.after if kind == "STATE"}


def names(step, before):
    """Return the names by which a step is counted: refusals also by what came of them."""
    if step.name != "refuse":
        return {step.name}
    name = f"refuse {step.given['why'].replace('_', '-')}"
    was, is_now = cursors(before), cursors(step)
    byte, tag = (any(was[relay][place] < is_now[relay][place] for relay in was) for place in (0, 1))
    return {name} | ({f"{name}, the byte raised"} if byte else set()) | ({f"{name}, the tag raised"} if tag else set())


@pytest.mark.parametrize("relays", [1, 2])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("lying", [False, True])
def test_the_code_takes_every_step_as_the_model_does(tmp_path, lying, early, relays):
    size, tags = (4, 3) if relays == 1 else (3, 3)
    switches = ["TIME", f"RELAYS={relays}", f"BYTES={size}", f"TAGS={tags}"]
    switches += [*(["LYING"] if lying else []), *(["EARLY"] if early else [])]
    wanted = STEPS | (AT_FIRST if early else set()) | (OF_A_LIAR if lying else set())
    taken = Counter()
    for seed in count():
        replay = AssignmentReplay(tmp_path / str(seed), relays=relays, size=size, tags=tags, early=early)
        steps = trace("assignment.pml", *switches, seed=seed, steps=4_000)
        for before, step in pairwise([None, *steps]):
            replay.take(step)
            taken.update(names(step, before))
        if seed >= RUNS and wanted <= taken.keys():
            break
        assert seed < 20 * RUNS, wanted - taken.keys()
