"""A chat in the terminal or in a script: messages in, answers out, and commands in between."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.text import Text

from airdraft.chat.talk import Answer, Settings, Talk
from airdraft.cli.behind import Behind
from airdraft.cli.output import OutputError, one_line
from airdraft.cli.typed import Typed
from airdraft.core.events import Committed
from airdraft.core.request import Counts
from airdraft.demo.show import TokenPrinter
from airdraft.device.cost import CostMeter
from airdraft.device.offline import Corrected, Unverified
from airdraft.device.writer import Writer
from airdraft.errors import AirdraftError, BadParameterError
from airdraft.models.text import Tokenizer

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Command:
    """What a person or a script may ask for between two messages."""

    does: Callable[[Conversation, str], str | None]
    """Takes what follows the command's name, and returns what to say."""
    takes: str
    what: str


class Conversation:
    """Reads messages, writes answers, and obeys commands, until the input ends."""

    def __init__(
        self, talk: Talk, writer: Writer, tokenizer: Tokenizer, behind: Behind, console: Console, notes: Console,
        as_json: bool,
        interactive: bool,
    ) -> None:  # fmt: skip
        """console, notes: where answers go, and what is said about them.

        interactive: whether a person types, whose mistakes and Ctrl-C do not end the chat.
        """
        self._talk, self._writer, self._tokenizer, self._behind = talk, writer, tokenizer, behind
        self._console, self._notes = console, notes
        self._as_json, self._interactive = as_json, interactive
        self._spent = CostMeter()
        self._last: Answer | None = None
        self._over = False

    def go_on(self, typed: Typed) -> None:
        """Converse. Raises: an `AirdraftError`, or `KeyboardInterrupt`, of a chat that is not interactive."""
        warned = False
        while not self._over:
            try:
                message = typed.next()
                if message is None:
                    break
                warned = False
                self._take(message)
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self._notes.print()
                if warned:
                    return
                warned = True
                self._say("Ctrl-C again, Ctrl-D or /exit ends the chat")
            except OutputError:
                raise
            except AirdraftError as error:
                if not self._interactive:
                    raise
                self._say(f"airdraft: {one_line(str(error))}", "red")
        if self._interactive and not self._over:
            self._notes.print()

    def _take(self, message: str) -> None:
        if message.startswith("//"):
            self._answer(message[1:])
        elif message.startswith("/"):
            name, *words = message[1:].split(maxsplit=1) or [""]
            rest = words[0] if words else ""
            command = COMMANDS.get(name)
            if command is None:
                known = ", ".join(f"/{each}" for each in COMMANDS)
                raise BadParameterError(
                    f"there is no command /{name}; take one of {known}, or begin a question with //"
                )
            if rest and not command.takes:
                raise BadParameterError(f"/{name} takes nothing after it; leave {rest[:40]!r} out")
            said = command.does(self, rest)
            if said is not None:
                self._say(said)
        else:
            self._answer(message)

    def _say(self, words: str, style: str = "dim") -> None:
        if not self._as_json or style != "dim":
            self._notes.print(Text(words, style), soft_wrap=True)

    def _answer(self, question: str) -> None:
        left_out = self._talk.history.left_out
        cost = CostMeter()
        answer = self._talk.prepare(question, cost.counts)
        left_out = self._talk.history.left_out - left_out
        if left_out:
            turns = "turn no longer fits" if left_out == 1 else f"{left_out} turns no longer fit"
            self._say(f"the oldest {turns} the context of {answer.context} tokens, and the model does not see it")
        printer = TokenPrinter(self._console, self._tokenizer)
        began, first_s = time.perf_counter(), None
        try:
            with cost.measuring(self._writer):
                for event in self._behind.iterate(self._talk.write(answer)):
                    if first_s is None and isinstance(event, Committed):
                        first_s = time.perf_counter() - began
                    if not self._as_json:
                        self._print(printer, event)
        except KeyboardInterrupt:
            if not self._interactive:
                raise
        except AirdraftError:
            answer.reason = "error"
            raise
        finally:
            if not self._as_json:
                printer.end()
            self._ended(answer, cost, first_s, left_out)

    def _print(self, printer: TokenPrinter, event: object) -> None:
        if isinstance(event, Committed):
            printer.committed(event)
        elif isinstance(event, Unverified) and self._console.is_terminal:  # only a terminal can take it back
            printer.unverified(event)
        elif isinstance(event, Corrected) and self._console.is_terminal:
            printer.corrected(event)

    def _ended(self, answer: Answer, cost: CostMeter, first_s: float | None, left_out: int) -> None:
        text = self._talk.keep(answer)
        self._last = answer
        spent = self._spent
        spent.counts = Counts.total([spent.counts, cost.counts])
        spent.seconds += cost.seconds
        spent.uplink_bytes += cost.uplink_bytes
        spent.downlink_bytes += cost.downlink_bytes
        rtt_s = self._rtt_s()
        if self._as_json:
            record: dict[str, Any] = {
                "event": "answer", "question": answer.question, "text": text, "ids": answer.tokens,
                "prompt_tokens": len(answer.request.prompt), "reason": answer.reason, "cut": answer.cut(),
                "left_out": left_out, "seed": answer.request.seed, "temperature": answer.request.params.temperature,
                "scheme": answer.scheme, "first_token_s": first_s,
                "rtt_ms": None if rtt_s is None else 1e3 * rtt_s,
            }  # fmt: skip
            print(json.dumps(record | cost.figures()), flush=True)  # noqa: T201
            return
        cut = answer.cut()
        if cut is not None and answer.tokens:
            self._say(f"[{cut}: the chat goes on from there]", "yellow")
        elif cut is not None:
            self._say("[cut off before the first token: the question is forgotten]", "yellow")
        self._say(", ".join(self._status(answer, cost, first_s, rtt_s)))
        if not self._interactive:
            self._console.print()

    def _status(self, answer: Answer, cost: CostMeter, first_s: float | None, rtt_s: float | None) -> list[str]:
        parts = [f"{len(answer.tokens)} tokens in {cost.seconds:.2f} s"]
        if first_s is not None:
            parts[0] += f" (the first after {first_s:.2f})"
        if answer.tokens:
            parts.append(f"{len(answer.tokens) / cost.seconds:.1f} tokens/s")
        if (rate := cost.counts.acceptance_rate) is not None:
            parts.append(f"acceptance {rate:.2f}")
        if rtt_s is not None:
            parts.append(f"RTT {1e3 * rtt_s:.1f} ms")
        return [*parts, answer.scheme if answer.request.policy is None else f"{answer.scheme} (auto)"]

    def _rtt_s(self) -> float | None:
        facts = self._behind.call(self._writer.facts)
        return None if facts is None else facts.rtt_s

    def _change(self, **changed: Any) -> None:
        self._talk.settings = replace(self._talk.settings, **changed)

    def system(self, words: str) -> str:
        """`/system`."""
        history = self._talk.history
        if words:
            history.system = None if words == "-" else words
        return "no system prompt but the template's" if history.system is None else f"system prompt: {history.system}"

    def seed(self, words: str) -> str:
        """`/seed`."""
        if words:
            self._change(seed=_number("seed", words, int))
        return f"seed {self._talk.settings.seed}"

    def temperature(self, words: str) -> str:
        """`/temperature`."""
        params = self._talk.settings.params
        if words:
            self._change(params=msgspec.structs.replace(params, temperature=_number("temperature", words, float)))
        return f"temperature {self._talk.settings.params.temperature:g}"

    def scheme(self, words: str) -> str:
        """`/scheme`."""
        if words:
            self._change(scheme=words)
        return f"scheme {self._talk.settings.scheme}"

    def stats(self, _: str) -> str | None:
        """`/stats`."""
        history, settings, last = self._talk.history, self._talk.settings, self._last
        figures, rtt_s = self._spent.figures(), self._rtt_s()
        filled = len(last.request.prompt) + len(last.tokens) if last is not None else 0
        record = {
            "event": "stats", "turns": len(history.turns), "left_out": history.left_out, "filled": filled,
            "context": self._writer.context, "edge": self._writer.edge, **_shown(settings),
            "rtt_ms": None if rtt_s is None else 1e3 * rtt_s,
        }  # fmt: skip
        if self._as_json:
            print(json.dumps(record | figures), flush=True)  # noqa: T201
            return None
        lines = [f"{name:>20}  {value}" for name, value in record.items() if name != "event" and value is not None]
        for name, value in figures.items():
            if value is not None:
                lines.append(f"{name:>20}  {value:.4g}" if isinstance(value, float) else f"{name:>20}  {value}")
        return "\n".join(lines)

    def save(self, words: str) -> str:
        """`/save`."""
        path = _file("save", words)
        self._talk.save(path)
        return f"{len(self._talk.history.turns)} turns are in {path}"

    def load(self, words: str) -> str:
        """`/load`."""
        path = _file("load", words)
        self._talk.load(path)
        return f"the chat goes on after {len(self._talk.history.turns)} turns of {path}"

    def clear(self, _: str) -> str:
        """`/clear`."""
        self._talk.history.take([each for each in self._talk.history.said() if each.role == "system"])
        return "a new chat, with the same system prompt and settings"

    def help(self, _: str) -> str:
        """`/help`."""
        lines = [f"  {f'/{name} {command.takes}':<20}{command.what}" for name, command in COMMANDS.items()]
        return "\n".join(
            [*lines, '  a line that ends in \\ goes on in the next; """ begins and ends a longer message', "  "
             "Ctrl-C stops an answer; twice, Ctrl-D or /exit ends the chat; // begins a question with /"]
        )  # fmt: skip

    def exit(self, _: str) -> None:
        """`/exit`."""
        self._over = True


COMMANDS = {
    "system": Command(Conversation.system, "[TEXT]", "the system prompt from now on; - takes it away"),
    "seed": Command(Conversation.seed, "[N]", "the seed of the next answers"),
    "temperature": Command(Conversation.temperature, "[T]", "their temperature; 0 is greedy"),
    "scheme": Command(Conversation.scheme, "[NAME]", "how they are written"),
    "stats": Command(Conversation.stats, "", "what this chat has cost so far"),
    "save": Command(Conversation.save, "FILE", "write chat and settings to a file"),
    "load": Command(Conversation.load, "FILE", "go on with the chat in a file"),
    "clear": Command(Conversation.clear, "", "forget what was said"),
    "help": Command(Conversation.help, "", "these lines"),
    "exit": Command(Conversation.exit, "", "end the chat"),
}


def _shown(settings: Settings) -> dict[str, Any]:
    return {
        "scheme": settings.scheme, "seed": settings.seed, "max_tokens": settings.max_tokens,
        **msgspec.structs.asdict(settings.params),
    }  # fmt: skip


def _file(command: str, words: str) -> Path:
    if not words or "\0" in words:
        raise BadParameterError(f"/{command} needs a file; name one, /{command} FILE")
    try:
        return Path(words).expanduser()
    except RuntimeError as problem:  # no such home
        raise BadParameterError(f"{words} cannot be found ({problem}); name another file") from problem


def _number(command: str, words: str, kind: type[N]) -> N:
    try:
        return kind(words)
    except ValueError as problem:
        raise BadParameterError(f"/{command} takes a number, not {words[:40]!r}") from problem
