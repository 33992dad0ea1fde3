"""The schemes by name, all with one interface."""

from __future__ import annotations

from airdraft.core.law import Law
from airdraft.core.messages import SchemeSpec
from airdraft.core.schemes.base import DEVICE, EDGE, Context, Drafted, Drafts, Guess, Ruling, Scheme, Traits
from airdraft.core.schemes.coupled import RACES, Coupled, Server, Stream
from airdraft.core.schemes.dense import Dense
from airdraft.core.schemes.lattice import Lattice
from airdraft.core.schemes.rejection import VERIFY
from airdraft.core.schemes.split import DOWNLINKS, Split
from airdraft.core.schemes.topk import TopK
from airdraft.errors import BadParameterError

SERVER, DENSE, TOPK, LATTICE, SPLIT = "server", "dense", "topk", "lattice", "split"
COUPLED, STREAM = "coupled", "stream"
"""Names for code that means exactly this scheme. To select schemes by their traits, use `named`."""

SCHEMES: dict[str, type[Scheme]] = {
    SERVER: Server,
    DENSE: Dense,
    TOPK: TopK,
    LATTICE: Lattice,
    SPLIT: Split,
    COUPLED: Coupled,
    STREAM: Stream,
}
"""All schemes. To add one, write its file and give it a line here."""


def traits(name: str) -> Traits:
    """Return the traits of a scheme by name. Raises: `BadParameterError` if there is no such scheme."""
    if name not in SCHEMES:
        raise BadParameterError(f"scheme {name!r} is unknown; choose one of {', '.join(SCHEMES)}", field="scheme")
    return SCHEMES[name].traits


def named(**wanted: object) -> tuple[str, ...]:
    """List the names of all schemes with these traits, as in `named(rounds=True, exact="text")`."""
    return tuple(
        name
        for name, scheme in SCHEMES.items()
        if all(getattr(scheme.traits, trait) == value for trait, value in wanted.items())
    )


def make(spec: SchemeSpec, law: Law, side: int) -> Scheme:
    """Make a scheme for one session on one side, `DEVICE` or `EDGE`.

    It checks the options of all schemes, because a policy may change to any of them later.
    Raises: `BadParameterError` for an unknown scheme or an option out of range.
    """
    traits(spec.name)
    for scheme in SCHEMES.values():
        scheme.check(spec)
    return SCHEMES[spec.name](Context(spec, law, side))


__all__ = [
    "COUPLED", "DENSE", "DEVICE", "DOWNLINKS", "EDGE", "LATTICE", "RACES", "SCHEMES", "SERVER", "SPLIT", "STREAM",
    "TOPK", "VERIFY", "Context", "Drafted", "Drafts", "Guess", "Ruling", "Scheme", "Traits", "make", "named", "traits",
]  # fmt: skip
