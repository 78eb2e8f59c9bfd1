"""SAEs of tests: their authority, certificates of KMEs and applications, and connections that show them."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import ssl
from contextlib import contextmanager

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from support.etsi014 import validate

TIMEOUT_S = 30.0


class Authority:
    """A certificate authority whose certificates are files in a directory."""

    def __init__(self, directory, name="saes"):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.name = directory, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(
            self.name, self.key.public_key(), [(x509.BasicConstraints(ca=True, path_length=0), True)]
        )
        self.path = directory / "ca.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(self, subject, key, extensions, *, days=1):
        now = datetime.datetime.now(datetime.UTC)
        start = now - datetime.timedelta(days=2)
        number, end = x509.random_serial_number(), now + datetime.timedelta(days=days)
        builder = x509.CertificateBuilder(self.name, subject, key, number, start, end)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, file, *, names=(), usage=None, sans=(), days=1):
        """Write FILE.pem and FILE.key; ``names`` are common names, ``usage`` the extended key usage."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
        extensions = [(x509.SubjectAlternativeName(list(sans)), False)] if sans else []
        if usage is not None:
            extensions.append((x509.ExtendedKeyUsage([usage]), False))
        certificate = self._sign(subject, key.public_key(), extensions, days=days)
        paths = self.directory / f"{file}.pem", self.directory / f"{file}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate

    def server(self, directory, *, days=1):
        """Fill a KME's directory of TLS files, whose certificate expires in so many days."""
        directory.mkdir(parents=True, exist_ok=True)
        local = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        self.issue("server", names=["kme"], usage=ExtendedKeyUsageOID.SERVER_AUTH, sans=local, days=days)
        self.files("server", directory)

    def files(self, file, directory):
        """Fill a directory of TLS files with FILE's certificate, and this authority to trust."""
        (directory / "ca.pem").write_bytes(self.path.read_bytes())
        (directory / "cert.pem").write_bytes((self.directory / f"{file}.pem").read_bytes())
        (directory / "key.pem").write_bytes((self.directory / f"{file}.key").read_bytes())

    def revoke(self, path, *certificates):
        """Write the list of certificates that count no more."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder(self.name, now, now + datetime.timedelta(days=1))
        for certificate in certificates:
            revoked = x509.RevokedCertificateBuilder(certificate.serial_number, now).build()
            builder = builder.add_revoked_certificate(revoked)
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def context(self, file=None, *, directory=None):
        """Return how a client connects that trusts this authority and shows FILE's certificate, if any."""
        context = ssl.create_default_context(cafile=str(self.path))
        if file is not None:
            base = (directory or self.directory) / file
            context.load_cert_chain(f"{base}.pem", f"{base}.key")
        return context


class Sae:
    """An application that asks a KME, over one connection that is kept."""

    def __init__(self, port, context, host="127.0.0.1"):
        self.connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)

    def ask(self, method, path, body=None, headers=None):
        """Return status, headers and JSON of the answer; the body is bytes, or what becomes JSON."""
        data = json.dumps(body).encode() if isinstance(body, dict | list) else body
        self.connection.request(method, path, data, headers or {})
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        validate(path, response.status, answer)
        return response.status, response.headers, answer

    def get(self, other, what, query=""):
        """GET what there is for another SAE."""
        return self.ask("GET", f"/api/v1/keys/{other}/{what}{query}")

    def post(self, other, what, body=None):
        """POST a question about another SAE."""
        return self.ask("POST", f"/api/v1/keys/{other}/{what}", body)

    def close(self):
        """End the connection."""
        self.connection.close()


@contextmanager
def sae_at(port, context, host="127.0.0.1"):
    """Yield an SAE with a connection of its own."""
    sae = Sae(port, context, host)
    try:
        yield sae
    finally:
        sae.close()
