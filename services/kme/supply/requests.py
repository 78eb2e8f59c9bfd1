"""What applications ask of a KME, in its loop's thread: who may ask for what, and who answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from kme.applications import (
    KEY_COUNT_SHOWN_MAX,
    KEY_SIZE_BITS_DEFAULT,
    MANDATORY_NOT_MET,
    ApplicationError,
    ApplicationKey,
    BadRequestError,
    Caller,
    KeyRequest,
    NotAllowedError,
    PairStatus,
)
from kme.model import NodeSettings
from kme.supply.model import ONLY_DIRECT, Pair, Want
from kme.supply.question import Question
from kme.supply.source import SourceSide
from kme.supply.target import TargetSide
from kme.supply.waiters import Answer, Result
from qkdrelay.network.directory import LEVEL_MAX, Directory


class Requests:
    """Answers what applications ask of one KME."""

    def __init__(self, me: NodeSettings, source: SourceSide, slaves: TargetSide) -> None:
        self._name, self._neighbours, self._source, self._slaves = me.name, me.links, source, slaves

    # --- what is asked -----------------------------------------------------------------------------

    def status(self, question: Question, now: float) -> None:
        """Say what there is for a pair of SAEs."""

        def look() -> PairStatus:
            pair, target = self._pair(question.caller, question.other)
            level = self._directory.settings(*pair).level
            stored = KEY_COUNT_SHOWN_MAX
            if target != self._name:
                want = Want(pair, KEY_SIZE_BITS_DEFAULT, level)
                stored = min(self._source.serving.stored(want, now), KEY_COUNT_SHOWN_MAX)
                # Who looks first and asks then must not wait for ever for somebody to ask.
                self._source.memory.demand.looked(target, level, now)
            return PairStatus(self._name, target, stored, level)

        self._answer(question, look)

    def take(self, question: Question, request: KeyRequest, now: float) -> None:
        """Give a master keys, now or later, or an error."""
        try:
            pair, target = self._pair(question.caller, request.slave)
            if target == self._name:
                self._answer(question, lambda: self._slaves.draw_local(pair, request.number, request.size_bits, now))
                return
            settings = self._directory.settings(*pair)
            level = max(settings.level, request.level or 0)
            if level > LEVEL_MAX:
                if target not in self._neighbours:
                    raise BadRequestError(MANDATORY_NOT_MET, details=[{"qkdrelay_compromised": LEVEL_MAX}])
                level = ONLY_DIRECT
        except ApplicationError as error:
            self._tell(question, error)
            return
        want = Want(pair, request.size_bits, level)
        self._source.serving.take(question, want, request.number, now, is_demanded=level > settings.level)

    def fetch(self, question: Question, key_ids: Sequence[UUID], now: float) -> None:
        """Give a slave keys by their ids, or an error."""

        def look() -> list[ApplicationKey]:
            self._check(question.caller)
            return self._slaves.fetch(question.caller, question.other, key_ids, now)

        self._answer(question, look)

    @property
    def _directory(self) -> Directory:
        return self._source.memory.directory

    def _check(self, caller: Caller) -> None:
        """Raise NotAllowedError unless the caller is an SAE of this KME, as the directory is now."""
        sae = self._directory.saes.get(caller.sae_id)
        if sae is None or sae.kme != self._name:
            raise NotAllowedError(f"{caller.sae_id} is not an SAE of {self._name}")
        if sae.pin is not None and sae.pin != caller.fingerprint:
            raise NotAllowedError(f"{caller.sae_id} has another certificate in the directory of {self._name}")

    def _pair(self, caller: Caller, slave: str) -> tuple[Pair, str]:
        """Return the pair and the slave's KME. Raises ApplicationError unless they may share keys."""
        self._check(caller)
        target = self._directory.kme_of(slave)
        if target is None:
            raise BadRequestError(f"{self._name} knows no SAE {slave}")
        if not self._directory.allows(caller.sae_id, slave):
            raise NotAllowedError(f"{caller.sae_id} and {slave} are not to share keys")
        return Pair(caller.sae_id, slave), target

    def _answer(self, question: Question, look: Callable[[], Result]) -> None:
        try:
            result = look()
        except ApplicationError as error:
            self._tell(question, error)
        else:
            self._tell(question, result)

    def _tell(self, question: Question, result: Result) -> None:
        if question.begin():
            self._source.serving.answers.append(Answer(question, result))
