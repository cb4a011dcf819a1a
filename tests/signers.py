"""A certificate authority of our own, and a signer it vouches for."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def write_signer(folder: Path) -> tuple[Path, Path, Path]:
    """PEM files: the signer's chain, its key, and the authority to trust."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, signer = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = (
        _about("An Authority", "An Authority", authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .sign(authority, hashes.SHA256())
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    leaf = (
        _about("A Signer", "An Authority", signer)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        .add_extension(issuer, critical=False)
        .sign(authority, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    chain, key, anchor = folder / "chain.pem", folder / "key.pem", folder / "authority.pem"
    chain.write_bytes(leaf.public_bytes(pem) + ca.public_bytes(pem))
    anchor.write_bytes(ca.public_bytes(pem))
    plain = serialization.NoEncryption()
    key.write_bytes(signer.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return chain, key, anchor


def _about(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )


def _name(text: str) -> x509.Name:
    kinds = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
    return x509.Name([x509.NameAttribute(kind, text) for kind in kinds])


def _usage(sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not sign,
        crl_sign=not sign,
        encipher_only=False,
        decipher_only=False,
    )
