"""Smallest sets by an exact solver (HiGHS), for circuits whose decision diagram would be too large."""

from __future__ import annotations

from collections.abc import Sequence

from qkdrelay.errors import InvalidPlanError
from qkdrelay.network.threshold_circuit import Circuit

SOLVER_SECONDS_MAX = 60.0


def cheapest(
    circuit: Circuit,
    costs: Sequence[float],
    forbidden: Sequence[Sequence[int]] = (),
    seconds_max: float = SOLVER_SECONDS_MAX,
) -> tuple[int, ...] | None:
    """Return the elements' indices of a set of least cost that makes the circuit true; None if none does.

    ``costs`` are positive; no set that contains one of ``forbidden`` is returned. A binary per element and per gate:
    k * gate <= k * own element + sum of children, and the output gate is 1. The gates are acyclic, so none can hold
    itself up. Raises InvalidPlanError if the solver needs more than ``seconds_max``.
    """
    # Loaded where it is used: a KME imports its neighbours of this module and has no solver.
    import numpy as np  # noqa: PLC0415
    from scipy.optimize import Bounds, LinearConstraint, milp  # noqa: PLC0415
    from scipy.sparse import csr_array  # noqa: PLC0415

    n, total = len(circuit.elements), len(circuit.elements) + len(circuit.gates)
    entries: list[tuple[int, int, float]] = []
    for row, gate in enumerate(circuit.gates):
        entries.append((row, n + row, gate.threshold))
        entries += ((row, n + child, -1.0) for child in gate.children)
        if gate.own is not None:
            entries.append((row, gate.own, -gate.threshold))
    upper = [0.0] * len(circuit.gates)
    for row, chosen in enumerate(forbidden, len(upper)):
        entries += ((row, element, 1.0) for element in chosen)
    upper += [len(chosen) - 1.0 for chosen in forbidden]
    rows, columns, values = zip(*entries, strict=True)
    matrix = csr_array((values, (rows, columns)), shape=(len(upper), total))
    lower = np.zeros(total)
    lower[-1] = 1.0
    result = milp(
        np.array([*costs, *(0.0 for _ in circuit.gates)]),
        integrality=np.ones(total, dtype=np.int64),
        bounds=Bounds(lower, np.ones(total)),
        constraints=LinearConstraint(matrix, -np.inf, np.array(upper)),
        options={"time_limit": seconds_max, "mip_rel_gap": 0.0},
    )
    if result.status == 2:
        return None
    if result.status != 0 or result.x is None:
        raise InvalidPlanError(
            f"the plan's smallest sets were not found within {seconds_max:g} s",
            hint="choose a policy with fewer KMEs: best or disjoint",
        )
    chosen = tuple(i for i in range(n) if result.x[i] > 0.5)
    if not circuit.holds([circuit.elements[i] for i in chosen]):
        raise AssertionError("the solver's set does not satisfy the circuit")
    return chosen
