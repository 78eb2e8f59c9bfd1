"""Keys for applications in memory: a small honest `kme.applications.ApplicationKeys`, which keeps to the standard."""

from __future__ import annotations

import secrets
from concurrent.futures import Future
from uuid import uuid4

from kme.applications import (
    MANDATORY_NOT_MET,
    NOT_FOUND,
    ApplicationError,
    ApplicationKey,
    BadRequestError,
    NotAllowedError,
    PairStatus,
    TryLaterError,
)
from qkdrelay.network.directory import Directory, Sae

LEVEL = 2


class KeysInMemory:
    """Two KMEs in one: what a master takes, its slave can fetch, once."""

    def __init__(self, *, stock=1_000):
        self.saes = Directory(
            {sae: Sae(sae, kme) for sae, kme in (("sae-1", "kme-1"), ("sae-8", "kme-8"), ("sae-9", "kme-8"))}
        )
        self.stock, self.given = stock, {}
        self.taken = 0
        """Keys that have left the stock."""
        self.never = set()
        """SAEs that get no answer."""

    def directory(self):
        return self.saes

    def status(self, caller, slave):
        return self._answer(caller, lambda: PairStatus("kme-1", self._kme(caller, slave), self.stock, LEVEL))

    def take(self, caller, request):
        def take():
            self._kme(caller, request.slave)
            if (request.level or 0) > LEVEL:
                raise BadRequestError(MANDATORY_NOT_MET, details=[{"qkdrelay_compromised": LEVEL}])
            if request.number > self.stock:
                raise TryLaterError("there are no keys now", retry_after_s=3)
            self.stock -= request.number
            self.taken += request.number
            size = request.size_bits // 8
            keys = [
                ApplicationKey(uuid4(), secrets.token_bytes(size), LEVEL, "relayed", 1.5) for _ in range(request.number)
            ]
            self.given |= {key.key_id: (caller.sae_id, request.slave, key) for key in keys}
            return keys

        return self._answer(caller, take)

    def fetch(self, caller, master, key_ids):
        def fetch():
            self._known(caller)
            found = [self.given.get(key_id) for key_id in key_ids]
            if any(there and there[1] != caller.sae_id for there in found):
                raise NotAllowedError("not the slave of all of these keys")
            if any(there is None or there[0] != master for there in found):
                raise BadRequestError(NOT_FOUND)
            return [self.given.pop(key_id)[2] for key_id in key_ids]

        return self._answer(caller, fetch)

    def _known(self, caller):
        if caller.sae_id not in self.saes.saes:
            raise NotAllowedError(f"{caller.sae_id} is no SAE of this KME")

    def _kme(self, caller, slave):
        self._known(caller)
        if slave not in self.saes.saes:
            raise BadRequestError(f"there is no SAE {slave}")
        return self.saes.saes[slave].kme

    def _answer(self, caller, work):
        answer = Future()
        if caller.sae_id in self.never:
            return answer
        try:
            answer.set_result(work())
        except ApplicationError as error:
            answer.set_exception(error)
        return answer
