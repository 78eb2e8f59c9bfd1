"""Two applications of the demo: each asks the KME at its site, as any client of ETSI GS QKD 014 does.

Over real TLS on loopback, with certificates that are made for it and are gone afterwards.
"""

from __future__ import annotations

import hmac
import http.client
import json
import ssl
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from kme.etsi014.questions import COMPROMISED
from kme.etsi014.server import serving_applications
from qkdrelay.errors import SettingsError
from qkdrelay.network.directory import Sae
from qkdrelay_demo.network import EmbeddedNetwork
from qkdrelay_demo.observation import OK, ApplicationKey
from qkdrelay_deployment.certificates import Authority, pair_files
from qkdrelay_deployment.files import make_folder, write_file

_LOCAL: Final = "127.0.0.1"
_WAIT_S: Final = 5.0
_CLIENT_S: Final = 20.0
"""Seconds a client waits for an answer: longer than a KME takes to say that it has no key."""
_ANSWER_BYTES_MAX: Final = 1 << 16


@dataclass(frozen=True)
class _Answer:
    """What a KME answered: in words, and the key in it."""

    text: str
    key: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def compromised(self) -> int | None:
        """How many compromised KMEs the key withstands."""
        return self.key["key_extension"][COMPROMISED] if self.key else None


def share_a_key(network: EmbeddedNetwork, master: Sae, slave: Sae) -> ApplicationKey:
    """Have the master take a key that it is to share with the slave, and the slave fetch the same by its key_ID.

    What does not come is told in the observation. SettingsError if nothing can be served on loopback.
    """
    try:
        with _certificates(network.topology.name, master, slave) as folder:
            taken = _ask(network, folder, master, f"{slave.sae_id}/enc_keys")
            fetched = _Answer("not asked")
            if taken.key:
                fetched = _ask(network, folder, slave, f"{master.sae_id}/dec_keys?key_ID={taken.key['key_ID']}")
    except OSError as error:
        text = error.strerror or str(error)
        raise SettingsError(f"the demo cannot serve applications on {_LOCAL}: {text}") from None
    return ApplicationKey(
        master=master.sae_id,
        master_kme=master.kme,
        slave=slave.sae_id,
        slave_kme=slave.kme,
        key_id=taken.key["key_ID"] if taken.key else None,
        answers=(taken.text, fetched.text),
        equal=_are_equal(taken, fetched),
        compromised=taken.compromised if taken.compromised == fetched.compromised else None,
    )


@contextmanager
def _certificates(network: str, *saes: Sae) -> Iterator[Path]:
    """Yield a folder, for this user alone, with what each SAE and its KME show and trust."""
    authority = Authority.new(network)
    with TemporaryDirectory(prefix="qkdrelay-demo-") as name:
        for sae in saes:
            for owner, hosts in ((sae.sae_id, ()), (sae.kme, (_LOCAL,))):
                folder = Path(name, owner)
                make_folder(folder, mode=0o700)
                pair = authority.issue(owner, hosts)
                for path, text in pair_files(folder, authority.certificate, pair).items():
                    write_file(path, text, mode=0o600)
        yield Path(name)


def _ask(network: EmbeddedNetwork, folder: Path, sae: Sae, what: str) -> _Answer:
    """Return what an SAE is answered at its KME."""
    keys, audit, address = network.keys_of[sae.kme], network.audit_of[sae.kme], (_LOCAL, 0)
    with serving_applications(keys, audit, address, folder / sae.kme, id_from="cn", wait_s=_WAIT_S) as port:
        return network.settle_while(lambda: _answer(port, folder / sae.sae_id, f"/api/v1/keys/{what}"))


def _answer(port: int, certificates: Path, path: str) -> _Answer:
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    connection = http.client.HTTPSConnection(_LOCAL, port, timeout=_CLIENT_S, context=context)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        answer = json.loads(response.read(_ANSWER_BYTES_MAX))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _Answer(f"no answer: {type(error).__name__}")
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        return _Answer(f"{response.status}: {answer['message']}")
    return _Answer(OK, answer["keys"][0])


def _are_equal(taken: _Answer, fetched: _Answer) -> bool:
    """Compare what the two were given, here in the process: keys go nowhere else."""
    if taken.key is None or fetched.key is None or taken.key["key_ID"] != fetched.key["key_ID"]:
        return False
    keys = b64decode(taken.key["key"]), b64decode(fetched.key["key"])
    return len(keys[0]) > 0 and hmac.compare_digest(*keys)
