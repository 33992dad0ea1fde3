"""Turns, as tables: who goes first, and how much of a prompt one call takes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from airdraft.core.events import Forward
from airdraft.scheduler.turns import PIECE, Batch, Ledger, Owner, Sequenced, Share, Turn, in_turn


def turn(owner: Owner, arrival: int, spare: bool = False) -> Turn:
    return Turn(Sequenced(owner), Forward(1, 0, (1,), 1, spare), arrival)


@pytest.mark.parametrize(
    ("spent", "waiting", "order"),
    [
        ((0, 0), ["a", "b"], [0, 1]),  # who came first
        ((2, 1), ["a", "b"], [1, 0]),  # who has spent least
        ((0, 0), ["a", "a", "b"], [0, 2, 1]),  # a second turn after everybody's first
        ((1, 2), ["b", "a", "b", "a"], [1, 0, 3, 2]),
        ((0, 9), ["a spare", "b"], [1, 0]),  # spare forwards last, whoever's
        ((0, 9), ["a spare", "a", "b"], [1, 2, 0]),
        ((0, 0), [], []),
    ],
)
def test_who_goes_first(spent: tuple[int, int], waiting: Sequence[str], order: Sequence[int]) -> None:
    """Of tenants, and of the clients of one tenant."""
    for tenant in (None, Owner()):
        owners = {"a": Owner(tenant, spent[0]), "b": Owner(tenant, spent[1])}
        turns = [turn(owners[each[0]], at, "spare" in each) for at, each in enumerate(waiting)]
        assert [each.arrival for each in in_turn(turns)] == order


def test_a_tenants_many_clients_have_the_turns_of_one_tenant() -> None:
    many, few = Owner(), Owner()
    clients = [Owner(many) for _ in range(5)]
    turns = [turn(owner, at) for at, owner in enumerate([clients[0], *clients, Owner(few), Owner(few)])]
    assert [each.arrival for each in in_turn(turns)] == [0, 6, 2, 7, 3, 4, 5, 1]


def share(owner: Owner, fed: int) -> Share:
    return Share(Sequenced(owner), 0, [0] * fed, 0, fed, 1)


def test_a_call_is_paid_for_by_what_was_fed_and_idling_saves_nothing() -> None:
    ledger, tenants = Ledger(), [Owner(), Owner()]
    clients = [Owner(tenants[0]), Owner(tenants[0]), Owner(tenants[1])]
    shares = [share(owner, fed) for owner, fed in zip(clients, (1, 2, 5), strict=True)]
    ledger.served(shares)
    ledger.spent(shares, 0.8)
    assert [owner.spent_s for owner in (*clients, *tenants)] == pytest.approx([0.1, 0.2, 0.5, 0.3, 0.5])
    ledger.served(shares[:2])
    late = share(Owner(Owner()), 1)
    ledger.arrived(late.text)
    assert late.text.owner.tenant is not None
    assert late.text.owner.tenant.spent_s == pytest.approx(0.3)  # level with who is served
    assert late.text.owner.spent_s == 0  # alone in its tenant
    ledger.arrived(shares[2].text)
    assert tenants[1].spent_s == pytest.approx(0.5)  # and who has spent more, has


def text(cached: int, length: int | None = None) -> Sequenced:
    """A text of the tokens 0, 1, 2, ..., the first `cached` of which are in the cache."""
    return Sequenced(Owner(), list(range(cached if length is None else length)), None, cached)


@pytest.mark.parametrize(
    ("cached", "length", "keep", "tokens", "rows", "start", "end", "given"),
    [
        (0, 0, 0, [7], 1, 0, 1, 1),
        (5, 5, 5, [7, 8], 2, 5, 7, 2),
        (5, 5, 3, [7, 8], 1, 3, 5, 1),  # rolls back
        (5, 5, 3, [3, 4, 5], 1, 5, 6, 1),  # a piece of it is there already
        (5, 5, 3, [3, 4], 2, 3, 5, 2),  # but rows are to be had of tokens that are fed
        (0, 5, 5, [7], 1, 0, 6, 1),  # lost its cache
        (2, 5, 5, [7], 1, 2, 6, 1),
        (0, 0, 0, [7] * (PIECE + 9), 0, 0, PIECE, 0),
        (0, 0, 0, [7] * (PIECE + 9), 20, 0, PIECE - 11, 0),  # the rows come with the last piece
        (0, 0, 0, [7] * (2 * PIECE), 2 * PIECE, 0, 2 * PIECE, 2 * PIECE),  # rows are no prompt
    ],
)
def test_what_of_a_forward_is_run(
    cached: int, length: int, keep: int, tokens: list[int], rows: int, start: int, end: int, given: int
) -> None:
    waiting = Turn(text(cached, length), Forward(1, keep, tuple(tokens), rows), 4)
    share = Batch(8, pieces=True).share(waiting)
    assert share is not None
    assert (share.start, share.end, share.rows, share.arrival) == (start, end, given, 4)
    assert share.tokens == [*range(keep), *tokens]
    assert share.is_last == (end == keep + len(tokens))


@pytest.mark.parametrize(
    ("pieces", "most", "lengths", "fed"),
    [
        (True, 8, [PIECE, 1, 5], [PIECE, 1, None]),  # a prompt had it all; one token is none
        (True, 8, [100, 100, 100], [100, PIECE - 100, None]),
        (True, 8, [1, 1, PIECE + 1], [1, 1, PIECE]),
        (False, 8, [PIECE + 1, PIECE + 1], [PIECE + 1, PIECE + 1]),  # an engine that nobody waits for
        (True, 2, [1, 1], [1, 1]),
    ],
)
def test_prompts_share_the_tokens_of_a_call(
    pieces: bool, most: int, lengths: Sequence[int], fed: Sequence[int | None]
) -> None:
    batch, found = Batch(most, pieces), []
    for arrival, length in enumerate(lengths):
        assert not batch.full
        share = batch.share(Turn(text(0), Forward(1, 0, (7,) * length, 0), arrival))
        found.append(share and share.fed)
        if share is not None:
            batch.add(share)
    assert found == fed
    assert batch.full == (len(batch.shares) == most)
