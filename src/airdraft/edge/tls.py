"""The edge's TLS: a certificate, its key, and messages for when they do not fit."""

from __future__ import annotations

import ssl
from pathlib import Path

from airdraft.errors import BadParameterError
from airdraft.files import read_bytes


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Make a context for servers, with TLS 1.2 or newer.

    Args:
        certificate: the chain in PEM, with the server's own certificate first.
        key: its key in PEM, without a passphrase.

    Raises: `BadParameterError` if a file cannot be read, or the two do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load(context, certificate, key)
    return context


def load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Give new connections of `context` this certificate. Raises: as `server_context`; `context` is then unchanged."""
    for what, path in (("certificate", certificate), ("key", key)):
        try:
            read_bytes(path)
        except OSError as error:
            raise BadParameterError(
                f"the TLS {what} {path} cannot be read ({error.strerror}); give a PEM file"
            ) from error
    # Into another context first: a chain that fails half-way stays in the context it was loaded into.
    for into in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
        try:
            into.load_cert_chain(certificate, key, password=_no_passphrase)
        except ssl.SSLError as error:
            why = (
                f"{key} is not the key of {certificate}" if error.reason == "KEY_VALUES_MISMATCH"
                else f"{certificate} and {key} are not a certificate and a key in PEM"
            )  # fmt: skip
            raise BadParameterError(f"{why}; give the chain of the server and its own key") from error


def _no_passphrase() -> str:
    raise BadParameterError("the TLS key has a passphrase, and nobody can type it here; give the key without one")
