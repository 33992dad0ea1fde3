"""A chat in the terminal or in a script: messages in, answers out, and commands in between."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec
from rich.console import Console
from rich.text import Text

from airdraft.chat.talk import Reply, Settings, Talk
from airdraft.cli.chat.behind import Behind
from airdraft.cli.chat.commands import COMMANDS, Command
from airdraft.cli.chat.typed import Typed
from airdraft.cli.output import OutputError, noted, one_line
from airdraft.core.events import Committed
from airdraft.core.request import Counts
from airdraft.demo.show import Prints, TokenPrinter
from airdraft.device.cost import CostMeter
from airdraft.device.offline import Corrected, Unverified
from airdraft.device.writer import Writer
from airdraft.errors import AirdraftError, BadParameterError
from airdraft.models.text import Tokenizer


class Onto(Protocol):
    """Makes what one answer is printed on."""

    def __call__(self, *, chooses: bool) -> contextlib.AbstractAsyncContextManager[Prints]:
        """`chooses`: whether a policy chooses the scheme."""
        ...


class Conversation:
    """Reads messages, writes answers, and obeys commands, until the input ends."""

    def __init__(
        self, talk: Talk, writer: Writer, tokenizer: Tokenizer, behind: Behind, console: Console, screen: Onto,
        notes: Console,
        as_json: bool,
        interactive: bool,
    ) -> None:  # fmt: skip
        """console, screen, notes: where answers go, what one goes on while it is written, and what is said about them.

        interactive: whether a person types, whose mistakes and Ctrl-C do not end the chat.
        """
        self._talk, self._writer, self._tokenizer, self._behind = talk, writer, tokenizer, behind
        self._console, self._screen, self._notes = console, screen, notes
        self._as_json, self._interactive = as_json, interactive
        self._spent = CostMeter()
        self._last: Reply | None = None
        self._over = False
        self._commands = COMMANDS | {
            "stats": Command(lambda *_: self._stats(), "", "what this chat has cost so far"),
            "help": Command(lambda *_: self._help(), "", "these lines"),
            "exit": Command(lambda *_: self._exit(), "", "end the chat"),
        }

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
            command = self._commands.get(name)
            if command is None:
                known = ", ".join(f"/{each}" for each in self._commands)
                raise BadParameterError(
                    f"there is no command /{name}; take one of {known}, or begin a question with //"
                )
            if rest and not command.takes:
                raise BadParameterError(f"/{name} takes nothing after it; leave {rest[:40]!r} out")
            said = command.does(self._talk, rest)
            if said is not None:
                self._say(said)
        else:
            self._answer(message)

    def _say(self, words: str, style: str = "dim") -> None:
        if not self._as_json or style != "dim":
            noted(self._notes, Text(words, style))

    def _answer(self, question: str) -> None:
        left_out = self._talk.history.left_out
        cost = CostMeter()
        answer = self._talk.prepare(question, cost.counts)
        left_out = self._talk.history.left_out - left_out
        if left_out:
            turns = "turn no longer fits" if left_out == 1 else f"{left_out} turns no longer fit"
            self._say(f"the oldest {turns} the context of {answer.context} tokens, and the model does not see it")
        first_s: float | None = None
        try:
            with self._behind.within(self._screen(chooses=answer.request.policy is not None)) as screen:
                for seconds in self._written(answer, TokenPrinter(screen, self._tokenizer), cost):
                    first_s = seconds if first_s is None else first_s
        except KeyboardInterrupt:
            if not self._interactive:
                raise
        except AirdraftError:
            answer.reason = "error"
            raise
        finally:
            self._ended(answer, cost, first_s, left_out)

    def _written(self, answer: Reply, printer: TokenPrinter, cost: CostMeter) -> Iterator[float]:
        """Write and print an answer. Yields: the seconds until each commit."""
        began = time.perf_counter()
        try:
            with cost.measuring(self._writer):
                for event in self._behind.iterate(self._talk.write(answer)):
                    if isinstance(event, Committed):
                        yield time.perf_counter() - began
                    if not self._as_json:
                        self._print(printer, event)
        finally:
            if not self._as_json:
                printer.end()

    def _print(self, printer: TokenPrinter, event: object) -> None:
        if isinstance(event, Committed):
            printer.committed(event)
        elif isinstance(event, Unverified) and self._console.is_terminal:  # only a terminal can take it back
            printer.unverified(event)
        elif isinstance(event, Corrected) and self._console.is_terminal:
            printer.corrected(event)

    def _ended(self, answer: Reply, cost: CostMeter, first_s: float | None, left_out: int) -> None:
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
                "prompt_tokens": len(answer.request.prompt), "private": answer.request.private,
                "reason": answer.reason, "cut": answer.cut(),
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

    def _status(self, answer: Reply, cost: CostMeter, first_s: float | None, rtt_s: float | None) -> list[str]:
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

    def _stats(self) -> str | None:
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
        shown = {name: value for name, value in (record | figures).items() if name != "event" and value is not None}
        wide = max(map(len, shown))
        return "\n".join(
            f"{name:>{wide}}  {value:.4g}" if isinstance(value, float) else f"{name:>{wide}}  {value}"
            for name, value in shown.items()
        )

    def _help(self) -> str:
        lines = [f"  {f'/{name} {command.takes}':<20}{command.what}" for name, command in self._commands.items()]
        lines.append('  a line that ends in \\ goes on in the next; """ begins and ends a longer message')
        lines.append("  Ctrl-C stops an answer; twice, Ctrl-D or /exit ends the chat; // begins a question with /")
        return "\n".join(lines)

    def _exit(self) -> None:
        self._over = True


def _shown(settings: Settings) -> dict[str, Any]:
    return {
        "scheme": settings.scheme, "seed": settings.seed, "max_tokens": settings.max_tokens,
        "schema": settings.schema[0] if settings.schema else None,
        **msgspec.structs.asdict(settings.params),
    }  # fmt: skip
