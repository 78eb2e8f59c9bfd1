"""The thread that asks one QKD device for one link: one thing at a time, while the KME does something else.

What a device has given it does not give again. So a draw that fails is not tried again as it was, but anew, later and
later; and what was fetched is kept until it is held for good, since an announcement that nobody made could have it
fetched as well.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from kme.devices.answers import KEYS_MAX, DeviceError, DeviceKey, DeviceRefusesError, DeviceStatus
from kme.devices.remembered import RememberedIds

PAUSE_S, PAUSE_MAX_S = 1.0, 60.0
"""Seconds before a device is asked again for keys that gave none: twice as long each time."""
FETCH_S: Final = 30.0
"""Seconds for which keys are fetched that the device does not have yet."""
DRAW_S: Final = 2.0
"""Seconds after which a draw asks the device no more, where it takes several requests."""
KEPT_S, KEPT_MAX = 60.0, 32 * KEYS_MAX
"""For how long keys are kept that were fetched and are not held, and how many."""
_AGAIN_S: Final = 1.0
_LATELY_S: Final = 60.0
_MEASURED: Final = 32
"""Draws that the rate is measured over."""
_STOP_S: Final = 15.0


class AnyDevice(Protocol):
    """A device, as of `kme.devices.client.Device`; everything may raise DeviceError."""

    def status(self) -> DeviceStatus:
        """Ask what there is."""
        ...

    def draw(self, number: int) -> list[DeviceKey]:
        """Draw up to so many keys."""
        ...

    def fetch(self, key_ids: Sequence[str]) -> list[DeviceKey]:
        """Fetch these keys, in this order."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """Keys that were drawn; none, and why, if it failed."""

    keys: tuple[DeviceKey, ...] = field(repr=False)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of a fetch: the keys in the order of their ids; none, and why, if it failed."""

    key_ids: tuple[str, ...]
    keys: tuple[DeviceKey, ...] = field(repr=False)
    why: str = ""


@dataclass(frozen=True, slots=True)
class LineState:
    """What a device has done lately."""

    drawn: int = 0
    fetched: int = 0
    """Keys."""
    rate_bps: int = 0
    """Bits of key a second, from draw to draw: what it was asked for, if it could give more."""
    why: str = ""
    """Why it gave no key the last time; empty if it gave some."""
    failures: int = 0
    is_limit: bool = False
    """Whether it gave less than it was asked for lately, so that the rate is what it can do."""


class DeviceLine:
    """Asks one device, in a thread of its own; the rest is for one other thread."""

    def __init__(
        self, device: AnyDevice, clock: Callable[[], float] = time.monotonic, *, keeps_uncollected: bool = False
    ) -> None:
        """``clock`` returns seconds and never steps back.

        A device that ``keeps_uncollected`` keys is asked for more, though not all of the last ones were fetched.
        """
        self._device, self._clock, self.keeps_uncollected = device, clock, keeps_uncollected
        self._changed = threading.Condition()
        self._to_draw: int | None = None
        self._to_fetch: tuple[str, ...] | None = None
        self._fetch_until = 0.0
        self._draw_at, self._fetch_at, self._pause = 0.0, 0.0, PAUSE_S
        self._at_once, self._up_to = KEYS_MAX, KEYS_MAX
        """Keys that the device gives at once, and that it is asked for next, at most."""
        self._outcomes: deque[Drawn | Fetched] = deque()
        self._mine, self._theirs = RememberedIds(), RememberedIds()
        """Keys that were drawn here and at the other end: one that is of both would seal messages both ways."""
        self._kept: OrderedDict[str, tuple[float, DeviceKey]] = OrderedDict()
        self._draws: deque[tuple[float, int]] = deque(maxlen=_MEASURED)
        self._state = LineState()
        self._is_asking, self._is_ending, self._short_at = False, False, -math.inf
        self._thread: threading.Thread | None = None

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to ask; ``wake`` is called when something has come."""
        self._thread = threading.Thread(target=self._run, args=(wake,), name="device", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask nothing more; what is under way has its time limit."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def draw(self, number: int) -> bool:
        """Have up to so many keys drawn now; return False while the device is asked, or has just failed."""
        with self._changed:
            if self._to_draw is not None or self._is_asking or self._clock() < self._draw_at:
                return False
            self._to_draw = number if self.keeps_uncollected else min(number, self._at_once, self._up_to)
            self._changed.notify()
            return True

    def fetch(self, key_ids: Sequence[str]) -> bool:
        """Have these keys fetched, within `FETCH_S`; return False while a fetch is under way."""
        with self._changed:
            if self._to_fetch is not None:
                return False
            self._to_fetch, self._fetch_until, self._fetch_at = tuple(key_ids), self._clock() + FETCH_S, 0.0
            self._changed.notify()
            return True

    def is_drawing(self) -> bool:
        """Whether a draw is under way."""
        with self._changed:
            return self._to_draw is not None

    def take(self) -> list[Drawn | Fetched]:
        """Return what has come since this was asked last."""
        with self._changed:
            outcomes = list(self._outcomes)
            self._outcomes.clear()
            return outcomes

    def held(self, key_ids: Sequence[str]) -> None:
        """Forget keys that are held for good: whatever is announced then, they do not come from here again."""
        with self._changed:
            for key_id in key_ids:
                self._kept.pop(key_id.lower(), None)

    def state(self) -> LineState:
        """Return what the device has done lately."""
        with self._changed:
            return replace(self._state, is_limit=self._clock() - self._short_at < _LATELY_S)

    # --- the thread ------------------------------------------------------------------------------

    def _run(self, wake: Callable[[], None]) -> None:
        while (work := self._next()) is not None:
            work()
            with self._changed:
                self._is_asking = False
            wake()
        self._device.close()

    def _next(self) -> Callable[[], None] | None:
        """Wait for something to ask, and return how; None at the end. A draw comes first: it may be this end's turn."""
        with self._changed:
            while not self._is_ending:
                wait_s = None if self._to_fetch is None else self._fetch_at - self._clock()
                if self._to_draw is not None:
                    self._is_asking = True
                    return self._draw_now
                if wait_s is not None and wait_s <= 0:
                    self._is_asking = True
                    return self._fetch_now
                self._changed.wait(wait_s)
            return None

    def _draw_now(self) -> None:
        number = self._to_draw
        if number is None:
            return
        keys, error = self._drawn(number)
        why = "" if error is None else str(error)
        now, bits = self._clock(), 8 * sum(len(key.key) for key in keys)
        with self._changed:
            self._to_draw = None
            # One that is not there says nothing of what it can give.
            if len(keys) < number and (error is None or isinstance(error, DeviceRefusesError)):
                self._short_at = now
            if why:
                self._draw_at, self._pause = now + self._pause, min(PAUSE_MAX_S, 2 * self._pause)
            else:
                self._pause = PAUSE_S
                self._draws.append((now, bits))
            self._outcomes.append(Drawn(tuple(keys), why))
            self._state = replace(
                self._state,
                drawn=self._state.drawn + len(keys),
                rate_bps=self._rate(),
                why=why,
                failures=self._state.failures + bool(why),
            )

    def _drawn(self, number: int) -> tuple[list[DeviceKey], DeviceError | None]:
        """Return keys, up to so many, from as many requests as that takes; or none, and why."""
        keys, until = list[DeviceKey](), self._clock() + DRAW_S
        while True:
            asked = min(number - len(keys), self._at_once, self._up_to)
            try:
                came = self._device.draw(asked)
            except DeviceError as error:
                if isinstance(error, DeviceRefusesError) and asked > 1:
                    self._up_to = self._fewer(asked)
                return keys, None if keys else error
            self._up_to = min(KEYS_MAX, 2 * self._up_to)
            if self._theirs.has_any(ids := [key.key_id for key in came]):
                return [], DeviceError("enc_keys: a key came that the other end had drawn")
            self._mine.add(ids)
            keys += came
            if len(came) < asked or len(keys) >= number or self._clock() >= until:
                return keys, None

    def _fewer(self, number: int) -> int:
        """Return how many keys to ask for next, of a device that does not give so many.

        Some have few, or give few at once, and nothing where more is asked for.
        """
        try:
            status = self._device.status()
        except DeviceError:
            return max(1, number // 2)
        if status.keys_per_request:
            self._at_once = min(KEYS_MAX, status.keys_per_request)
            if self._at_once < number:
                return self._at_once
        stored = status.stored_keys or 0
        return stored if 0 < stored < number else max(1, number // 2)

    def _rate(self) -> int:
        """Return the rate from the first of the last draws on, which came of what was there before."""
        if len(self._draws) <= 1:
            return 0
        seconds = self._draws[-1][0] - self._draws[0][0]
        return round(sum(bits for _, bits in list(self._draws)[1:]) / seconds) if seconds > 0 else 0

    def _fetch_now(self) -> None:
        key_ids = self._to_fetch
        if key_ids is None:
            return
        self._forget()
        missing = [key_id for key_id in key_ids if key_id.lower() not in self._kept]
        is_mine = self._mine.has_any(key_ids)
        keys, why = list[DeviceKey](), "one of its keys was drawn at this end, too" if is_mine else ""
        try:
            while not is_mine and len(keys) < len(missing):
                keys += self._device.fetch(missing[len(keys) :][: self._at_once])
        except DeviceError as error:
            why = str(error)
            if isinstance(error, DeviceRefusesError) and len(missing) > 1:
                self._fewer(len(missing))
        now = self._clock()
        with self._changed:
            self._kept.update((key.key_id.lower(), (now, key)) for key in keys)
            self._state = replace(self._state, fetched=self._state.fetched + len(keys))
            self._theirs.add(key.key_id for key in keys)
            if why and not is_mine and now + _AGAIN_S < self._fetch_until:
                self._fetch_at = now + _AGAIN_S  # the devices may take a while to agree
                return
            self._to_fetch = None
            found = () if why else tuple(self._kept[key_id.lower()][1] for key_id in key_ids)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
            self._outcomes.append(Fetched(key_ids, found, why))
            self._state = replace(self._state, failures=self._state.failures + bool(why))

    def _forget(self) -> None:
        with self._changed:
            while self._kept and self._clock() - next(iter(self._kept.values()))[0] >= KEPT_S:
                self._kept.popitem(last=False)
