"""Bearer tokens (RFC 6750) from a file, each with quotas: the access list of an edge."""

from __future__ import annotations

import asyncio
import hmac
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from airdraft.core.edge import Propose
from airdraft.errors import BadParameterError, why
from airdraft.files import read_utf8
from airdraft.scheduler import Owner

_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]{16,}=*")
"""The syntax of RFC 6750 §2.1, with at least 16 characters, since anybody online may try to guess one."""
LOOK_S = 1.0
"""Most seconds between two looks at a bucket: its rate may have changed."""
PART_S = 0.1
"""A prompt is paid for in parts of so many seconds' worth, and other texts have their turns between."""
_REMEDY = "take one of at least 16 letters, digits or -._~+/, from `openssl rand -hex 16` say"


class Quotas(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits on all devices with one token together. None: no limit of their own."""

    connections: int | None = None
    sessions: int | None = None
    """Most texts at once."""
    tokens_per_s: float | None = None
    """Most tokens a second that the target reads, on average: prompts, drafts, and every token written."""
    context: int | None = None
    """Length of the longest text in tokens, prompt included."""


class Entry(Quotas, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One [[token]] of a TOML file."""

    name: str
    token: str | None = None
    sha256: str | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    token: list[Entry]


class Bucket:
    """A token bucket that may go into debt. It holds up to one second's worth, for bursts."""

    def __init__(self, rate: float | None, now: float) -> None:
        """`rate`: tokens a second; None: no limit."""
        self.rate = rate
        self._level = rate or 0.0
        self._at = now

    def take(self, tokens: int, now: float) -> None:
        """Spend tokens."""
        if self.rate is not None:
            self._level = min(self.rate, self._level + (now - self._at) * self.rate) - tokens
        self._at = now

    def wait_s(self, now: float) -> float:
        """Return the seconds until the debt is paid."""
        if self.rate is None:
            return 0.0
        return max(0.0, -self._level / self.rate - (now - self._at))


@dataclass(eq=False)
class Tenant:
    """The owner of one token, with the current use of its devices. Tenants share nothing."""

    name: str
    quotas: Quotas
    bucket: Bucket
    digest: bytes = b""
    """SHA-256 of the token, which is not kept itself."""
    connections: int = 0
    sessions: int = 0
    verify_s: float = 0.0
    """Duration of a forward on its last connection, in seconds, including the wait for its bucket."""
    revoked: bool = False
    owner: Owner = field(default_factory=Owner)
    """For fair turns."""
    propose: Propose | None = None
    """Makes the proposers of its texts, where they learn from each other."""
    texts: WeakKeyDictionary[object, Callable[[], Sequence[int]]] = field(default_factory=WeakKeyDictionary)
    """Its open texts, each with what returns the tokens that are not private."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def pace(self, tokens: int) -> None:
        """Pay for a forward that feeds so many tokens, and wait until the bucket has made up for it.

        A long prompt is paid for in parts, so that it does not stop the tenant's other texts. Who gives up waiting gets
        everything back, as nothing was fed.
        """
        clock, paid = asyncio.get_running_loop().time, 0
        try:
            while paid < tokens and (rate := self.bucket.rate) is not None:
                async with self._turn:  # in the order in which they came
                    part = min(tokens - paid, max(1, int(rate * PART_S)))
                    self.spend(part)
                    paid += part
                    while (wait_s := self.bucket.wait_s(clock())) > 0:  # noqa: ASYNC110 - it waits for time to pass
                        await asyncio.sleep(min(wait_s, LOOK_S))
        except asyncio.CancelledError:
            self.spend(-paid)
            raise

    def spend(self, tokens: int) -> None:
        """Pay without waiting; who comes next waits longer. Below 0: get that back."""
        self.bucket.take(tokens, asyncio.get_running_loop().time())


def anybody(now: float) -> Tenant:
    """Return the one tenant of an edge without tokens."""
    return Tenant("anybody", Quotas(), Bucket(None, now))


class Access:
    """The tokens of one file."""

    def __init__(self, path: Path, now: float = 0.0) -> None:
        """Raise `BadParameterError` if the file cannot be read or has a mistake."""
        self._path = path
        self._tenants: list[Tenant] = []
        self.reload(now)

    def __len__(self) -> int:
        return len(self._tenants)

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants)

    def reload(self, now: float) -> None:
        """Read the file again. Tenants still in it keep their connections and texts, and the others are revoked.

        Raises: as the constructor does, and then changes nothing.
        """
        known = {tenant.digest: tenant for tenant in self._tenants}
        tenants = []
        for name, digest, quotas in _read(self._path):
            tenant = known.pop(digest, None) or Tenant(name, quotas, Bucket(quotas.tokens_per_s, now), digest)
            if tenant.quotas.tokens_per_s != quotas.tokens_per_s:
                tenant.bucket = Bucket(quotas.tokens_per_s, now)
            tenant.name, tenant.quotas = name, quotas
            tenants.append(tenant)
        for tenant in known.values():
            tenant.revoked = True
        self._tenants = tenants

    def find(self, authorization: str) -> Tenant | None:
        """Return the tenant whose token is in an `Authorization` header. A near miss takes as long as any other."""
        scheme, _, token = authorization.partition(" ")
        digest = sha256(token.strip().encode(errors="replace")).digest()
        found = None
        for tenant in self._tenants:  # all of them, even after a match
            if hmac.compare_digest(tenant.digest, digest):
                found = tenant
        return found if scheme.lower() == "bearer" else None


def _read(path: Path) -> list[tuple[str, bytes, Quotas]]:
    """Return the name, digest and quotas of each token. No error message shows a token."""
    try:
        text = read_utf8(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BadParameterError(f"the tokens in {path} cannot be read ({why(error)}); give a text file") from error
    entries = _of_toml(path, text) if path.suffix == ".toml" else _of_lines(path, text)
    if not entries:
        raise BadParameterError(f"{path} holds no token, so nobody could connect; add one, or leave --tokens out")
    for what, found in (("name", [each[0] for each in entries]), ("token", [each[1] for each in entries])):
        for at, each in enumerate(found):
            if each in found[:at]:
                raise BadParameterError(
                    f"{path}: {entries[at][0]!r} has the same {what} as another; give it one of its own"
                )
    return entries


def _of_lines(path: Path, text: str) -> list[tuple[str, bytes, Quotas]]:
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        token = line.partition("#")[0].strip()
        if token:
            entries.append((f"line {number}", _digest(path, f"line {number}", token), Quotas()))
    return entries


def _of_toml(path: Path, text: str) -> list[tuple[str, bytes, Quotas]]:
    try:
        listed = msgspec.convert(tomllib.loads(text), _File).token
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadParameterError(
            f"{path} lists no tokens ({error}); write [[token]] with name, token and quotas"
        ) from error
    entries = []
    for each in listed:
        quotas = Quotas(**{name: getattr(each, name) for name in Quotas.__struct_fields__})
        for name in Quotas.__struct_fields__:
            value = getattr(quotas, name)
            if value is not None and not value > 0:  # NaN too
                raise BadParameterError(f"{path}: {name} of {each.name!r} is {value}; give a number above 0, or none")
        if (each.token is None) == (each.sha256 is None):
            raise BadParameterError(f"{path}: {each.name!r} needs either token or sha256, the digest of one in hex")
        if each.sha256 is not None:
            if not re.fullmatch(r"[0-9a-fA-F]{64}", each.sha256):
                raise BadParameterError(f"{path}: sha256 of {each.name!r} is not 64 hex digits; see `sha256sum`")
            digest = bytes.fromhex(each.sha256)
        else:
            digest = _digest(path, repr(each.name), each.token or "")
        entries.append((each.name, digest, quotas))
    return entries


def _digest(path: Path, name: str, token: str) -> bytes:
    if not _TOKEN.fullmatch(token):
        raise BadParameterError(f"{path}: the token of {name} is too short or has other characters; {_REMEDY}")
    return sha256(token.encode()).digest()
