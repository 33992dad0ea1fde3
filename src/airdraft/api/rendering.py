"""A chat template in a process of its own, with limits on time, memory and length.

A template is a program from a model's folder. Jinja's sandbox keeps it from other objects, but not from looping for
ever or from `'a' * 10**10`. So the kernel sets the limits, on a process that holds nothing else. It reads requests and
writes answers, a line of JSON each, and ends with its input.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S = 2.0
"""Seconds of CPU for the template to be compiled, or to render one conversation."""
MEMORY = 1 << 29
"""Bytes of memory that the process may take, with Python itself."""
LONGEST = 1 << 24
"""Characters that a conversation may become."""


class _Generation(Extension):
    """`{% generation %}`, which marks what a model is trained on. Here it only passes its content through."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compiled(source: str) -> jinja2.Template:
    """Return the template, in a sandbox, with what Hugging Face's libraries give to templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment.from_string(source)


def rendered(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """Return the text. Raises: `jinja2.TemplateError` if it is longer than `LONGEST`, or what the template raises."""
    parts, length = [], 0
    for part in template.generate(variables):
        parts.append(part)
        length += len(part)
        if length > LONGEST:
            raise jinja2.TemplateError(f"it writes more than {LONGEST} characters")
    return "".join(parts)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def main() -> None:
    """Answer every line of standard input; the first is the template, the others are variables for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end is the end of the input
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit; there only the time is bounded
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    template: jinja2.Template | None = None
    for line in sys.stdin:
        # The signal's default ends the process, in the midst of whatever it does.
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        try:
            given = json.loads(line)
            if template is None:
                template, text = compiled(given), ""
            else:
                text = rendered(template, given)
            answer = {"text": text}
        except MemoryError:
            answer = {"error": f"it needs more than {MEMORY >> 20} MB"}
        except Exception as problem:  # a template is a program: it may raise anything
            answer = {"error": f"{problem}"[:1000] or type(problem).__name__}
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)  # noqa: T201 - the answer
