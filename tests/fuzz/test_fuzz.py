"""What has crashed once crashes no more; and the fuzzers see what is broken."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from airdraft import cli
from airdraft.core.connection import Machine
from airdraft.core.edge import EdgeMachine
from airdraft.core.edge.proposing import Load
from airdraft.core.events import Event, Forward, Progress
from airdraft.core.messages import Decoder, Message, More, Open, Ping, Pong, ToDevice, ToEdge, encode
from airdraft.lab.fuzz import HEADER_BYTES, PARTS, WIDE, WORLDS, hunt, run, stage, survey
from airdraft.lab.fuzz.limits import limits
from airdraft.lab.fuzz.mutate import HOSTILE, framed, frames, mutate, overheard, seeds

from ..cpu import slowness

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.bin"))


def dear(cpu_ms: float, peak_bytes: int = 0) -> str:
    """What of a cost is above the budget, of this CPU as it is now."""
    return hunt.above(cpu_ms, peak_bytes) and hunt.above(cpu_ms / slowness(), peak_bytes)


@pytest.mark.parametrize("path", CORPUS, ids=[path.stem for path in CORPUS])
def test_what_has_crashed_once(path: Path) -> None:
    data = path.read_bytes()
    tried = hunt.attempt(data)
    assert tried.fault == ""
    assert tried.ending
    assert dear(tried.cpu_ms, hunt.memory_bytes(data)) == ""


def test_there_is_a_corpus() -> None:
    assert len(CORPUS) >= 4


def test_inputs_nothing_was_changed_in_come_to_their_end() -> None:
    endings = {data[:2]: run(data).ending for data in seeds()}
    assert len(endings) == len(PARTS) * WORLDS
    for (part, _), ending in endings.items():
        if PARTS[part].startswith("decoder"):
            assert ending == "messages"
        elif PARTS[part] == "edge":
            assert {"stop", "length"} & set(ending.split())
            assert set(ending.split()) <= {"stop", "length", "silent"}


def test_edges_have_all_that_they_may_draft_with(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, sound = Counter[str](), EdgeMachine.forwarded

    def counting(self: EdgeMachine, *given: Any, **more: Any) -> list[Event]:
        events = sound(self, *given, **more)
        for event in events:
            if isinstance(event, Progress) and event.taken:
                taken[event.proposer] += event.taken
        return events

    unhelped, failed = EdgeMachine.unhelped, list[int]()
    monkeypatch.setattr(EdgeMachine, "forwarded", counting)
    monkeypatch.setattr(EdgeMachine, "unhelped", lambda self, *given: failed.append(given[0]) or unhelped(self, *given))
    for data in seeds():
        run(data)
    assert {"draft", "predicted", "lookup", "ngram"} <= set(taken)
    assert failed


def test_changes_are_the_same_again_and_reach_deep() -> None:
    inputs = seeds()

    def some() -> list[bytes]:
        rng = random.Random(7)  # noqa: S311
        return [mutate(rng.choice(inputs), rng) for _ in range(600)]

    assert some() == some()
    tried = [(PARTS[data[0] % len(PARTS)], hunt.attempt(data)) for data in some()]
    assert not [each.fault for _, each in tried if each.fault]
    endings = {(part, each.ending) for part, each in tried}
    for part in ("edge", "device"):
        ends = {end for each, ending in endings if each == part for end in ending.split()}
        assert {"garbage", "state", "silent", "stop", "length"} <= ends
    assert len(endings) > 20


def test_a_hostile_guide_is_refused_or_kept_to_and_costs_little() -> None:
    at = 1 + Open.__struct_fields__.index("guide")
    for number, guide in enumerate(HOSTILE):
        world = number % WORLDS
        messages = [msgspec.msgpack.decode(body) for body in frames(overheard(world)["edge"])]
        opened = [message for message in messages if message[0] == Open.__struct_config__.tag]
        assert opened
        for message in opened:
            message[at] = list(guide)
        wire = b"".join(framed(msgspec.msgpack.encode(message)) for message in messages)
        tried = hunt.attempt(bytes((WIDE, world, 0)) + wire)
        assert tried.fault == "", guide
        assert dear(tried.cpu_ms) == "", guide


class Counting:
    """A clock by which each input takes a second, so that as many are tried on a slow machine as on a fast one."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def monotonic(self) -> float:
        self._now_s += 1.0
        return self._now_s

    perf_counter = staticmethod(time.perf_counter)


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hunt, "time", Counting())


def found(tmp_path: Path, inputs: int = 1000) -> hunt.Hunt:
    return hunt.hunt(inputs, 1, tmp_path / "crashes")


@pytest.mark.slow
def test_a_crash_is_found_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An edge that breaks by every text that no honest device has asked for."""
    sound, honest = EdgeMachine._open, set[bytes]()

    def noted(self: EdgeMachine, message: Open) -> list[Event]:
        honest.add(encode(message))
        return sound(self, message)

    def broken(self: EdgeMachine, message: Open) -> list[Event]:
        return sound(self, message) if encode(message) in honest else [][len(honest)]

    overheard.cache_clear()
    monkeypatch.setattr(EdgeMachine, "_open", noted)
    seeds()
    monkeypatch.setattr(EdgeMachine, "_open", broken)
    result = found(tmp_path, 2000)
    assert not result.clean
    (crash,) = result.crashes
    assert "IndexError" in crash
    path = Path(crash.partition(":")[0])
    assert hunt.attempt(path.read_bytes()).fault.startswith("IndexError")
    monkeypatch.undo()
    assert hunt.attempt(path.read_bytes()).fault == ""


@pytest.mark.slow
def test_a_forward_that_no_model_can_do_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seeds()  # made by a sound edge
    sound = Load.forward

    def broken(*asked: Any) -> Forward:
        forward = sound(*asked)
        return replace(forward, keep=forward.keep + 1)  # counts the last token, which is not fed yet

    monkeypatch.setattr(Load, "forward", broken)
    assert any("was asked for" in crash for crash in found(tmp_path).crashes)


def test_a_hang_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seeds()  # made by a sound decoder

    def broken(self: Decoder, data: bytes) -> Iterable[Message]:
        while data:
            pass
        return iter(())

    monkeypatch.setattr(Decoder, "feed", broken)
    monkeypatch.setattr(hunt, "HANG_S", 0.1)
    result = found(tmp_path, 5)  # which comes to its end
    assert result.hangs


def test_too_much_memory_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sound = Machine.tick

    def broken(self: Machine, now: float) -> list[Event]:
        bytearray(30 << 20)
        return sound(self, now)

    monkeypatch.setattr(Machine, "tick", broken)
    result = found(tmp_path, 200)
    assert result.greedy
    assert result.greedy[0].endswith("where 20 are allowed")


def test_an_answer_out_of_proportion_is_found() -> None:
    machine_bytes = (Path(__file__).parent / "corpus" / "pings_that_want_much.bin").read_bytes()
    (ping, *_) = Decoder(Ping | Pong).feed(machine_bytes[HEADER_BYTES:])
    assert isinstance(ping, Ping)
    assert ping.want == 1 << 16


def surveyed(seconds: float, seed: int, folder: Path) -> survey.Survey:
    """The findings of a survey that found nothing: the real one is tested below, in parts."""
    kinds = (survey.LIMITS, survey.FLOODS, survey.UNREAD)
    return survey.Survey({kind: hunt.Dearest(1) for kind in kinds}, dict.fromkeys(kinds, 1))


def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str, int]:
    monkeypatch.setattr(sys, "argv", ["airdraft", "fuzz", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown, error = capsys.readouterr()
    return shown, error, int(ended.value.code or 0)


@pytest.mark.slow
def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    results, folder = tmp_path / "f.json", tmp_path / "crashes"
    monkeypatch.setattr(survey, "survey", surveyed)
    words = ("--seconds", "400", "--seed", "4", "--json", str(results), "--folder", str(folder))
    shown, _, code = say(monkeypatch, capsys, *words)
    assert code == 0, shown
    record = json.loads(results.read_text())
    assert record["executions"] > 200
    assert set(record["by_part"]) == set(PARTS)
    assert (record["crashes"], record["hangs"], record["greedy"], record["dear"]) == ([], [], [], [])
    assert record["dearest"]["changed messages"]["cpu_ms"] > 0
    assert set(record["dearest"]) == {"changed messages", "at a limit", "floods", "never read"}
    assert "dearest of" in shown
    assert not folder.exists()
    shown, _, code = say(monkeypatch, capsys, "--replay", str(CORPUS[0].parent))
    assert code == 0
    assert all(path.name in shown for path in CORPUS)
    _, error, code = say(monkeypatch, capsys, "--replay", str(tmp_path / "none"))
    assert code == 2
    assert "holds no input" in error


def test_every_message_comes_at_its_limits() -> None:
    names = [name for name, _ in limits()]
    for kind in (*ToEdge.__args__, *ToDevice.__args__):
        assert any(name.startswith(f"{kind.__name__}: ") for name in names), kind
    assert "Draft: body and count, coupled, to the edge" in names


def test_inputs_at_a_limit_are_frames_that_are_taken() -> None:
    """They are as long as a frame, and where a message may be so long, none is refused for its length."""
    makers = [make for name, make in limits() if name.startswith("Draft: body and count")]
    assert makers
    for make in makers:
        data = make()
        assert len(data) > 4_000_000
        assert "frame" not in run(data).ending.split()


def test_a_dear_message_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sound = EdgeMachine._handle

    def broken(self: EdgeMachine, message: Message, now: float) -> Iterable[Event]:
        if isinstance(message, More) and message.seq > 1 << 62:
            over_s = time.thread_time() + 0.08
            while time.thread_time() < over_s:
                pass
        return sound(self, message, now)

    monkeypatch.setattr(EdgeMachine, "_handle", broken)
    dearest = hunt.Dearest()
    makers = [(name, make) for name, make in limits() if name.startswith("More: seq")]
    faults = [survey._at_a_limit(name, make, tmp_path, dearest) for name, make in makers]
    assert any("ms for one turn, where 50 are allowed" in fault for fault in faults)
    assert dearest.cpu_ms > 50
    assert dearest.cpu_input.startswith("More: seq")
    kept = Path(next(filter(None, faults)).partition(":")[0])
    assert hunt.attempt(kept.read_bytes()).cpu_ms > 50


@pytest.mark.slow
def test_a_turn_of_a_real_edge_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge that holds up everybody for each chunk is found out, and one that does not is not."""
    (act,) = (act for act in stage.acts() if act.name == "for no text")
    whole = act.wire
    act = msgspec.structs.replace(act, wire=lambda victim: islice(whole(victim), 2))
    sound, took_s = EdgeMachine.feed, 0.0

    def slow(self: EdgeMachine, data: bytes, now: float) -> None:
        over_s = time.thread_time() + took_s
        while time.thread_time() < over_s:
            pass
        sound(self, data, now)

    monkeypatch.setattr(EdgeMachine, "feed", slow)
    usual_ms = stage.cost(act, memory=False).cpu_ms
    took_s = 0.5
    assert stage.cost(act, memory=False).cpu_ms > max(500.0, usual_ms)
    took_s = 0.0
    held = list[bytes]()

    def greedy(self: EdgeMachine, data: bytes, now: float) -> None:
        held.append(bytes(30 << 20))
        sound(self, data, now)

    monkeypatch.setattr(EdgeMachine, "feed", greedy)
    assert stage.cost(act, memory=True).peak_bytes > 30 << 20


def test_a_survey_of_nothing_is_not_clean() -> None:
    kinds = (survey.LIMITS, survey.FLOODS)
    assert survey.Survey({kind: hunt.Dearest(1) for kind in kinds}, {}).clean
    assert not survey.Survey({kind: hunt.Dearest() for kind in kinds}, {}).clean
    assert not survey.Survey({kind: hunt.Dearest(1) for kind in kinds}, {}, ["x"]).clean
    assert not hunt.Hunt(1).clean
