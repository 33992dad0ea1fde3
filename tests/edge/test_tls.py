"""wss:// with new certificates. ws:// is refused, and errors name the files that do not fit."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from time import perf_counter

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from websockets.exceptions import InvalidMessage

from airdraft.edge import tls
from airdraft.edge.server import Service
from airdraft.errors import BadParameterError, LinkError

from .loopback import HOST, Raw, Table, device, request, run, started, truth


def files(folder: Path, authority: trustme.CA, name: str = "localhost") -> tuple[Path, Path]:
    """Make a certificate and its key."""
    folder.mkdir(exist_ok=True)
    made = authority.issue_cert(name, "127.0.0.1")
    certificate, key = folder / "chain.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(key))
    return certificate, key


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_texts_over_tls_and_none_without(tmp_path: Path) -> None:
    async def main() -> None:
        authority, target = trustme.CA(), Table(1)
        service = Service(tls=tls.server_context(*files(tmp_path, authority)))
        async with started(target, service) as (_, url):
            assert url.startswith("wss://")
            async with Raw.connect(url, ssl=trusting(authority)) as raw:
                assert await raw.text(1, (1, 2, 3), 6) == truth(target, request("server", max_tokens=6))
                cipher = raw.socket.transport.get_extra_info("cipher")
                assert cipher[1] in ("TLSv1.2", "TLSv1.3")
            with pytest.raises((InvalidMessage, ConnectionError, EOFError)):
                async with Raw.connect(url.replace("wss://", "ws://")):
                    pass
            with pytest.raises(ssl.SSLCertVerificationError):
                async with Raw.connect(url, ssl=trusting(trustme.CA())):
                    pass
            with pytest.raises(LinkError, match=r"no edge answers at ws://.*; if it has a certificate, write wss://$"):
                await device(url.replace("wss://", "ws://"), Table(1))
        async with started(target) as (_, url):
            with pytest.raises(LinkError, match=r"no edge answers at wss://.*; if it has no certificate, write ws://$"):
                await device(url.replace("ws://", "wss://"), Table(1))

    run(main)


def test_a_tls_handshake_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        service = Service(tls=tls.server_context(*files(tmp_path, trustme.CA())), handshake_s=0.2)
        async with started(Table(1), service) as (server, _):
            reader, writer = await asyncio.open_connection(HOST, server.port)
            began = perf_counter()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            assert perf_counter() - began < 8  # ten are usual
            writer.close()

    run(main)


def test_a_new_certificate_is_for_new_connections(tmp_path: Path) -> None:
    async def main() -> None:
        old, new = trustme.CA(), trustme.CA()
        context = tls.server_context(*files(tmp_path, old))
        async with started(Table(1), Service(tls=context)) as (_, url):
            async with Raw.connect(url, ssl=trusting(old)) as raw:
                with pytest.raises(BadParameterError):
                    tls.load(context, tmp_path / "chain.pem", tmp_path / "nowhere")
                tls.load(context, *files(tmp_path, new))
                assert await raw.text(1, (1, 2), 2)
            async with Raw.connect(url, ssl=trusting(new)):
                pass
            with pytest.raises(ssl.SSLCertVerificationError):
                async with Raw.connect(url, ssl=trusting(old)):
                    pass

    run(main)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    certificate, key = files(tmp_path / "one", trustme.CA())
    _, other = files(tmp_path / "two", trustme.CA())
    nonsense, closed, missing = tmp_path / "nonsense.pem", tmp_path / "closed.pem", tmp_path / "missing.pem"
    nonsense.write_text("nonsense")
    private = load_pem_private_key(key.read_bytes(), None)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    closed.write_bytes(private.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"secret")))
    for given, why in (
        ((missing, key), rf"certificate {missing} cannot be read \(No such file"),
        ((certificate, missing), rf"key {missing} cannot be read \(No such file"),
        ((certificate, other), rf"{other} is not the key of {certificate}"),
        ((nonsense, key), "are not a certificate and a key in PEM; give the chain"),
        ((certificate, nonsense), "are not a certificate and a key in PEM; give the chain"),
        ((certificate, closed), "the TLS key has a passphrase"),
    ):
        with pytest.raises(BadParameterError, match=why):
            tls.server_context(*given)
