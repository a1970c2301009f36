"""Certificates for the test servers: an authority, a good certificate and several bad ones.

Owns making the PEM files; knows nothing of servers. The keys are deleted with the folder, and the
test user may read them.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificates:
    """PEM files. All but `ca` hold a private key, the certificate and (but one) the authority's."""

    ca: Path
    server: Path  # for localhost, 127.0.0.1 and ::1, signed by `ca`
    wrong_host: Path  # for elsewhere.test, signed by `ca`
    expired: Path  # for localhost, signed by `ca`, out of date
    self_signed: Path  # for localhost, signed by itself
    client: Path  # a client's, signed by `ca`
    client_locked: Path  # the same with its key under a passphrase


def make(folder: Path) -> Certificates:
    """Make a new set below `folder`. Takes about a second: once per session is enough."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, ca = _authority()
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    client = _issue(ca_key, ca, host="client.test")
    return Certificates(
        ca=folder / "ca.pem",
        server=_write(folder / "server.pem", *_issue(ca_key, ca), ca),
        wrong_host=_write(
            folder / "wrong-host.pem", *_issue(ca_key, ca, host="elsewhere.test"), ca
        ),
        expired=_write(folder / "expired.pem", *_issue(ca_key, ca, expired=True), ca),
        self_signed=_write(folder / "self-signed.pem", *_issue(None, None)),
        client=_write(folder / "client.pem", *client),
        client_locked=_write(folder / "client-locked.pem", *client, passphrase=b"locked"),
    )


def _key() -> rsa.RSAPrivateKey:
    # RSA: vsftpd's `rsa_cert_file` and old TLS libraries accept nothing else.
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _authority() -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    key = _key()
    name = _name("ftpfs test authority")
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - datetime.timedelta(days=1))
        .not_valid_after(_now() + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _issue(
    ca_key: rsa.RSAPrivateKey | None,
    ca: x509.Certificate | None,
    *,
    host: str = "localhost",
    expired: bool = False,
) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    key = _key()
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    if host == "localhost":
        names += [x509.IPAddress(ipaddress.ip_address(a)) for a in ("127.0.0.1", "::1")]
    start = _now() - datetime.timedelta(days=10)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(host))
        .issuer_name(ca.subject if ca else _name(host))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=5 if expired else 30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if ca is not None:
        # Python 3.13 verifies with VERIFY_X509_STRICT, which demands this link to the authority.
        identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
    return key, builder.sign(ca_key or key, hashes.SHA256())


def _write(
    path: Path, key: rsa.RSAPrivateKey, *chain: x509.Certificate, passphrase: bytes = b""
) -> Path:
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption(),
    )
    pem = [certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain]
    path.write_bytes(b"".join([private, *pem]))
    return path
