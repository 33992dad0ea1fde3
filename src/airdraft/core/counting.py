"""Sets of whole numbers as one whole number: the place of a set among all sets of its size.

Enumerative coding (Cover 1973): a set of m numbers below n takes ⌈log2 C(n, m)⌉ bits, and no code of one length takes
fewer. Weights that sum to a total are a set too: a multiset of ids, each as often as its weight says.
"""

from __future__ import annotations

import math

import numpy as np

from airdraft.core.noise import IntArray

_NEAR = 24
"""Steps from one binomial coefficient to a neighbour that cost about as much as computing one afresh."""


def width(count: int) -> int:
    """Return the bits that hold any number below `count`."""
    return (count - 1).bit_length()


def log2_comb(n: int, m: int) -> float:
    """Estimate log2 C(n, m), in little time however large it is."""
    return (math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)) / math.log(2)


def rank(members: IntArray) -> int:
    """Number a set, given ascending: Σ C(member, how many are no larger), below C(n, m) if its members are below n."""
    total = term = at = 0
    lowest = int(np.count_nonzero(members == np.arange(members.size)))  # of these, each C is 0
    for size, member in zip(range(members.size, lowest, -1), members[lowest:].tolist()[::-1], strict=True):
        if term and at - member <= _NEAR:
            term = term * (size + 1) // at  # C(at, size + 1) becomes C(at - 1, size)
            at -= 1
            while at > member:  # C(at, size) becomes C(at - 1, size)
                term = term * (at - size) // at
                at -= 1
        else:
            at, term = member, math.comb(member, size)
        total += term
    return total


def members(place: int, n: int, m: int) -> IntArray:
    """Invert `rank` for a set of m numbers below n, given 0 <= place < C(n, m). int64 [m]."""
    found = np.arange(m)
    at, term = n, math.comb(n, m)
    for size in range(m, 0, -1):
        if place == 0:
            break
        # place + 1 is about C(at, size) = ∏ (at - i) / size!, and the factors are about their mean.
        mean = math.exp((math.log(place) + math.lgamma(size + 1)) / size)
        likely = int(mean + (size * size - 1) / (24 * mean) + (size - 1) / 2) + 1
        if at - likely > _NEAR:
            at = max(likely, size)
            term = math.comb(at, size)
            while term <= place:
                at += 1
                term = term * at // (at - size)
        while term > place:  # C(at, size) becomes C(at - 1, size)
            term = term * (at - size) // at
            at -= 1
        found[size - 1] = at
        place -= term
        term = term * size // (at - size + 1)  # C(at, size - 1)
    return found


def rank_weights(weights: IntArray) -> int:
    """Number weights [k], given their sum and k: below C(sum + k - 1, k - 1)."""
    return rank(np.repeat(np.arange(weights.size), weights) + np.arange(int(weights.sum())))


def weights_of(place: int, k: int, total: int) -> IntArray:
    """Invert `rank_weights`: the weights [k] that sum to `total`, given 0 <= place < C(total + k - 1, k - 1)."""
    return np.bincount(members(place, total + k - 1, total) - np.arange(total), minlength=k)
