"""Links by name, `preset("rayleigh:snr=10,rtt=30")`: a name and, after a colon, what differs from its defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

from airdraft.errors import BadParameterError
from airdraft.link.base import LinkModel
from airdraft.link.const import ConstLink
from airdraft.link.markov2 import Markov2Link
from airdraft.link.nr import GRANTS, NrLink
from airdraft.link.nr.radio import SCENARIOS
from airdraft.link.rayleigh import RayleighLink
from airdraft.link.trace import TraceLink
from airdraft.link.tracefile import read


@dataclass(frozen=True)
class Key:
    """One key of a preset: the field that it sets, and the unit."""

    field: str
    what: str
    scale: float = 1.0
    """The field's value for 1, if values are numbers. 0 for a whole number."""
    words: tuple[str, ...] | None = None
    """The allowed values, if they are words; empty if any word may stand."""


_DOWN = Key("downlink_bps", "downlink, Mbit/s", 1e6)
_RTT = Key("rtt_s", "round trip, ms", 1e-3)
_SEED = Key("seed", "seed of all random draws", 0)
_HEADER = Key("header_bytes", "headers of each packet, bytes", 0)

KEYS: dict[type, dict[str, Key]] = {
    ConstLink: {"up": Key("uplink_bps", "uplink, Mbit/s", 1e6), "down": _DOWN, "rtt": _RTT, "header": _HEADER},
    Markov2Link: {
        "low": Key("low_bps", "one rate of the uplink, Mbit/s", 1e6),
        "high": Key("high_bps", "the other rate, Mbit/s", 1e6),
        "p": Key("switch_probability", "chance that the next block has the other rate"),
        "block": Key("block_s", "length of a block, ms", 1e-3),
        "down": _DOWN,
        "rtt": _RTT,
        "seed": _SEED,
        "header": _HEADER,
    },
    RayleighLink: {
        "snr": Key("snr_db", "mean, dB"),
        "bandwidth": Key("bandwidth_hz", "MHz", 1e6),
        "coherence": Key("coherence_s", "duration of a gain, ms", 1e-3),
        "down": _DOWN,
        "rtt": _RTT,
        "seed": _SEED,
        "header": _HEADER,
    },
    NrLink: {
        "scenario": Key("scenario", "kind of place", words=tuple(SCENARIOS)),
        "distance": Key("distance_m", "distance to the antenna, m"),
        "frequency": Key("frequency_ghz", "GHz"),
        "speed": Key("speed_mps", "m/s"),
        "tdd": Key("tdd", "slots, such as DDDSU or DDDDDDDSUU, or FDD", words=()),
        "prbs": Key("prbs", "resource blocks of the cell", 0),
        "grant": Key("grant", "start of an uplink burst", words=GRANTS),
        "target": Key("target_snr_db", "SNR that power control aims at, dB"),
        "power": Key("power_dbm", "maximum power of the device, dBm"),
        "core": Key("core_s", "base station to server, ms", 1e-3),
        "outages": Key("outage_interval_s", "mean time between outages, s; inf for none"),
        "jams": Key("jam_interval_s", "mean time between jams, s; inf for none"),
        "jam": Key("jam_db", "power of a jam over the noise, dB"),
        "seed": _SEED,
        "header": _HEADER,
    },
}
"""The keys that may follow each model's name."""
TRACE_KEYS = {
    "run": Key("run", "number of the run in the file, from 1", 0),
    "down": _DOWN,
    "rtt": _RTT,
    "end": Key("repeat", "at the end of the trace", words=("repeat", "hold")),
    "header": _HEADER,
}

OAI = NrLink(
    scenario="indoor-los", tdd="DDDDDDDSUU", prbs=106, grant="configured", configured_period_s=0.005, most_mcs=9,
    grant_delay_s=0.004, harq_delay_s=0.006, decode_s=0.002, core_s=0.0012, target_snr_db=5.0, branches=2,
    speed_mps=0.5, bler_target=0.15, outage_interval_s=math.inf,
)  # fmt: skip
"""An OpenAirInterface cell in a laboratory. docs/links.md lists its assumptions and compares it with measurements."""

PRESETS: dict[str, tuple[ConstLink | Markov2Link | RayleighLink | NrLink, str]] = {
    "const": (ConstLink(math.inf, math.inf, 0.0), "constant rates and round trip; no limit unless given"),
    "markov2": (Markov2Link(), "an uplink that switches between 2 and 6 Mbit/s (QS)"),
    "rayleigh": (RayleighLink(), "an uplink under Rayleigh block fading, at capacity"),
    "nr": (NrLink(), "a 5G cell: grants, slots, retransmissions"),
    "nr-oai": (OAI, "nr, set to imitate the OpenAirInterface cell that EDAF measured"),
    **{
        f"dssd-{rtt_ms}ms-{mbps}mbps": (
            ConstLink(mbps * 1e6, mbps * 1e6, rtt_ms / 1e3),
            f"DSSD's grid: {rtt_ms} ms, {mbps} Mbit/s both ways",
        )
        for rtt_ms in (0, 20, 50)
        for mbps in (10, 50, 100)
    },
}
"""A link for each name, and a description."""

Value: TypeAlias = float | int | str | bool


def preset(text: str) -> LinkModel:
    """Make the link that `text` names: NAME, NAME:key=value,..., or trace:FILE,key=value,...

    Raises: `BadParameterError`, which lists the names or keys, or explains a bad value.
    """
    name, _, rest = text.partition(":")
    if name == "trace":
        return _trace(text, rest)
    if name not in PRESETS:
        raise BadParameterError(f"no link {name!r}: give one of {', '.join(PRESETS)}, or trace:FILE")
    base, _ = PRESETS[name]
    words = [word for word in rest.split(",") if word]
    changes = _changes(text, words, KEYS[type(base)])
    return _changed(text, base, changes)


def _changed(
    text: str, base: ConstLink | Markov2Link | RayleighLink | NrLink | TraceLink, changes: dict[str, Value]
) -> LinkModel:
    try:
        changed: LinkModel = replace(base, **changes)  # type: ignore[arg-type]  # keys name fields and their types
    except BadParameterError as error:  # it names a field, in the field's own unit
        raise BadParameterError(f"the link {text!r}: {error}") from error
    return changed


def listing() -> str:
    """List all names, their descriptions and their keys, for people."""
    lines = [f"{name:<20} {what}" for name, (_, what) in PRESETS.items()]
    lines.append(f"{'trace:FILE':<20} rates and round trips from a file, see docs/links.md")
    shown = {"const, dssd-...": KEYS[ConstLink], "markov2": KEYS[Markov2Link], "rayleigh": KEYS[RayleighLink]}
    for name, keys in {**shown, "nr, nr-oai": KEYS[NrLink], "trace": TRACE_KEYS}.items():
        lines += ["", f"{name}: append :key=value,key=value" if name != "trace" else "trace:FILE,key=value"]
        lines += [f"  {word:<12} {_what(key)}" for word, key in keys.items()]
    return "\n".join(lines)


def _what(key: Key) -> str:
    return f"{key.what}: {', '.join(key.words)}" if key.words else key.what


def _changes(text: str, words: list[str], keys: dict[str, Key]) -> dict[str, Value]:
    changes: dict[str, Value] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in keys:
            raise BadParameterError(f"no key {name!r} in the link {text!r}: give one of {', '.join(keys)}")
        key = keys[name]
        if key.field in changes:
            raise BadParameterError(f"{name} is given twice in the link {text!r}: give it once")
        changes[key.field] = _value(text, name, value, key)
    return changes


def _value(text: str, name: str, value: str, key: Key) -> Value:
    if key.words is not None:
        if key.words and value not in key.words:
            raise BadParameterError(f"{name} is {value!r} in the link {text!r}: give one of {', '.join(key.words)}")
        return value
    try:
        return float(value) * key.scale if key.scale else int(value)
    except ValueError:
        kind = "a number" if key.scale else "a whole number"
        raise BadParameterError(f"{name} is {value!r} in the link {text!r}: give {kind} ({key.what})") from None


def _trace(text: str, rest: str) -> LinkModel:
    """Read keys from the end while they are known, because a path may hold commas."""
    path = rest.split(",")
    words: list[str] = []
    while len(path) > 1 and path[-1].partition("=")[0] in TRACE_KEYS:
        words.insert(0, path.pop())
    changes = _changes(text, words, TRACE_KEYS)
    runs = read(",".join(path))
    number = changes.pop("run", 1)
    if not isinstance(number, int) or not 1 <= number <= len(runs):
        raise BadParameterError(f"run is {number} in the link {text!r}: the file has runs 1 to {len(runs)}")
    if "repeat" in changes:
        changes["repeat"] = changes["repeat"] == "repeat"
    return _changed(text, TraceLink(runs[number - 1]), changes)
