"""How much of the network's key the supply between two KMEs may have, against others: as the directory of SAEs says."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.supply.accounts import Place
from qkdrelay.errors import TopologyError
from qkdrelay.network.directory import NO_SAES, Directory, PairSettings
from qkdrelay.service.batch import Batch, Cell

_DEFAULT = float(PairSettings().weight)


class Weights:
    """The weight of each place: the greatest of any pair of SAEs that is at its ends and has its level."""

    def __init__(self, read: Callable[[], Directory], batch: Batch) -> None:
        """``read`` returns the directory as it is now, the same one as long as it has not changed, or TopologyError."""
        self._read = read
        self._directory = Cell(batch, NO_SAES)
        self._weights: Cell[dict[Place, float]] = Cell(batch, {})
        self._broken = Cell(batch, "")

    def __call__(self, place: Place) -> float:
        """Return it; that of a pair with no settings if none has any there."""
        return self._weights.value.get(place, _DEFAULT)

    def look(self) -> str:
        """Take over what has changed; return what is newly wrong with the directory, while the last good one counts."""
        try:
            directory = self._read()
        except TopologyError as error:
            before, self._broken.value = self._broken.value, str(error)
            return str(error) if str(error) != before else ""
        self._broken.value = ""
        if directory is not self._directory.value:
            self._directory.value, self._weights.value = directory, _by_place(directory)
        return ""


def _by_place(directory: Directory) -> dict[Place, float]:
    weights: dict[Place, float] = {}
    for (master, slave), settings in directory.pairs.items():
        source, target = directory.saes[master].kme, directory.saes[slave].kme
        place = Place(source, target, settings.level)
        weights[place] = max(float(settings.weight), weights.get(place, 0.0))
    return weights
