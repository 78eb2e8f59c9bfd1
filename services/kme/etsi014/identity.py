"""Who asks: the SAE that a verified client certificate names."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final, Literal

from cryptography import x509
from cryptography.x509.oid import NameOID

from kme.applications import Caller, NotAllowedError
from qkdrelay.network.names import SAE_ID, SAE_ID_RULE

IdFrom = Literal["cn", "san"]
"""Where a certificate has the SAE's id: its common name, or an entry of its alternative names."""
SAN_PREFIX: Final = "sae-id:"
"""Of an alternative name, a URI or a DNS name, that is an SAE's id; without one, the only DNS name is."""


@lru_cache(maxsize=4_096)
def caller_of(certificate: bytes, id_from: IdFrom) -> Caller:
    """Return who a certificate (DER), already verified, says its holder is. Raises NotAllowedError."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        names = _common_names(parsed) if id_from == "cn" else _alternative_names(parsed)
    except ValueError:  # a field that is not as it must be
        raise NotAllowedError("the client certificate cannot be read") from None
    where = "common name" if id_from == "cn" else "alternative name that is an SAE ID"
    if len(names) != 1:
        raise NotAllowedError(f"the client certificate has {len(names)} of what must be one: {where}")
    if not SAE_ID.fullmatch(names[0]):
        raise NotAllowedError(f"the client certificate's {where} is no SAE ID: {SAE_ID_RULE}")
    return Caller(names[0], hashlib.sha256(certificate).hexdigest())


def _common_names(certificate: x509.Certificate) -> list[str]:
    return [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _alternative_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    dns = names.get_values_for_type(x509.DNSName)
    said = [*names.get_values_for_type(x509.UniformResourceIdentifier), *dns]
    marked = [name.removeprefix(SAN_PREFIX) for name in said if name.startswith(SAN_PREFIX)]
    return marked or dns
