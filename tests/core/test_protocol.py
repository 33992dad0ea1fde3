"""docs/protocol.md says what the code does: every table, vector and example in it is made here.

`python -m pytest tests/core/test_protocol.py` compares; with AIRDRAFT_WRITE_PROTOCOL=1 in the environment it rewrites
the marked blocks instead.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import structs

from airdraft.core import messages, schemes
from airdraft.core.choosing import choose
from airdraft.core.connection import HEARTBEAT_S, SILENCE
from airdraft.core.edge import Limits
from airdraft.core.law import Law, Place
from airdraft.core.logprobs import Logprob, encode_logprobs
from airdraft.core.messages import (
    ERROR_CODES,
    MAX_FILLER,
    MAX_FRAME,
    MOST_BACK,
    MOST_IDS,
    MOST_NODES,
    MOST_PROPOSED,
    MOST_TEXT,
    MOST_VERIFIED,
    PING_FRAME,
    REACH,
    SHORT_FRAME,
    VERSION,
    Digest,
    Draft,
    Error,
    Extra,
    Logprobs,
    Message,
    More,
    Ping,
    SchemeSpec,
    Switch,
    Tokens,
    Verdict,
    encode,
)
from airdraft.core.noise import gumbel, row_key
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import Drafted, Drafts
from airdraft.core.schemes.lattice import BODY_BITS, MOST_BITS, MOST_RESOLUTION
from airdraft.core.schemes.split import CANDIDATES
from airdraft.core.states import DEVICE, EDGE

from .tables import drafting, hello, opening
from .test_machines import EDGE_MESSAGES, STATES, law
from .test_noise import noise_words, slow_gumbel, slow_word

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"

MEANING = {  # of fields that every message spells alike
    "version": "protocol version",
    "software": "name and version of the sender's program, for people",
    "model": "name of the sender's model, for people",
    "vocab_size": "number of tokens",
    "max_context": "most positions of a text, prompt included",
    "max_frame": "most bytes of a frame the edge takes",
    "max_draft": "most tokens in one draft",
    "max_sessions": "most sessions open at once on this connection",
    "heartbeat_s": "seconds between heartbeats, for both sides; 0.01 to 3600",
    "eos_ids": "tokens that end a text",
    "session": "the session's number",
    "scheme": "`SchemeSpec`",
    "params": "`SamplingParams`",
    "seed": "seed of the shared noise; below 2^63",
    "max_tokens": "most tokens written after the prompt, those already committed included",
    "prompt_length": "tokens of the prompt",
    "digest": "digest of the text as it then stands",
    "committed": "tokens of the text: prompt and committed",
    "seq": "number of the draft, raised by the device",
    "start": "tokens of the text before these",
    "count": "number of drafted tokens, 0 included",
    "extra": "`split`: what the device recovers from; else empty",
    "reason": "for people: `stop`, `length`, `cancelled`, `failed`",
    "t": "the sender's own number, returned untouched",
    "code": "one of the error codes",
    "message": "for people, one line",
    "name": "the scheme",
}


def _fields(struct: type[msgspec.Struct]) -> list[tuple[str, str, str]]:
    """List the name, type and meaning of each field, in the array's order."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(struct)).body if isinstance(node, ast.ClassDef))
    out = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name, kind = node.target.id, ast.unparse(node.annotation)
        said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        kind = re.sub(r"Annotated\[(\w+), .*\]", r"\1", kind)
        for python, plain in (
            ("Ids", "array of integers"), ("Text", "string"), ("Name", "string"), ("Count", "integer"),
            ("Word", "integer"), ("bytes", "binary"),
            ("Seconds", "float"), ("str", "string"), ("None", "nil"),
        ):  # fmt: skip
            kind = re.sub(rf"\b{python}\b", plain, kind)
        kind = kind.replace(" | ", " or ")
        kind = re.sub(r"\bint\b", "integer", kind)
        default = f"; default {ast.unparse(node.value)}" if node.value is not None else ""
        out.append((name, kind + default, " ".join(str(said or MEANING[name]).split())))
    return out


def fields_block() -> str:
    out = []
    for struct in (*Message.__subclasses__(), SchemeSpec, SamplingParams):
        tag = struct.__struct_config__.tag
        first = 0 if tag is None else 1
        lines = inspect.cleandoc(struct.__doc__ or "")
        out += [f"### {struct.__name__}{'' if tag is None else f' ({tag})'}", "", lines, "", "| # | field | type | |"]
        out += ["|---:|---|---|---|"]
        out += [f"| {first + i} | `{n}` | {kind} | {what} |" for i, (n, kind, what) in enumerate(_fields(struct))]
        out += [""]
    return "\n".join(out).rstrip()


def errors_block() -> str:
    return "\n".join(["| code | meaning |", "|---|---|", *(f"| `{c}` | {what} |" for c, what in ERROR_CODES.items())])


def limits_block() -> str:
    limits = Limits()
    return "\n".join(
        [
            "| what | value |",
            "|---|---|",
            f"| protocol version | {VERSION} |",
            f"| a frame, unless a side says otherwise | {MAX_FRAME} bytes |",
            f"| a frame of a message without a body | {SHORT_FRAME} bytes |",
            f"| a frame of a `Ping`, and of a `Pong` | {PING_FRAME} and {2 * MAX_FILLER} bytes |",
            f"| a string for people | {MOST_TEXT} characters |",
            "| any other string | 32 characters |",
            f"| ids in an array | {MOST_IDS} |",
            f"| tokens in a draft (`max_draft`) | {limits.max_draft} |",
            f"| a stream's drafts beyond the committed text, times `max_draft` | {REACH} |",
            f"| tokens that an edge may propose in a forward | {MOST_PROPOSED} |",
            f"| live drafts of a tree (`trees`), and drafts of one in a forward | {MOST_NODES} and {MOST_VERIFIED} |",
            f"| drafts from one of a tree back to its parent | {MOST_BACK} |",
            f"| filler a `Ping` may want | {MAX_FILLER} bytes |",
            f"| sessions on a connection (`max_sessions`) | {limits.max_sessions} |",
            f"| heartbeat | {HEARTBEAT_S:g} s |",
            f"| heartbeats of silence until the peer is given up | {SILENCE} |",
            f"| first batch of `split` candidates | {CANDIDATES} |",
            f"| weights of `lattice`, summed | {MOST_RESOLUTION} |",
            f"| a distribution of `lattice` | {MOST_BITS} bits |",
            f"| a body of `lattice` | {BODY_BITS} bits |",
        ]
    )


def edge_block() -> str:
    out = [f"| message | {' | '.join(STATES)} |", "|---" * (len(STATES) + 1) + "|"]
    out += [f"| {name} | {' | '.join(law(name, state) for state in STATES)} |" for name in EDGE_MESSAGES]
    kinds = (Draft, More, Switch)
    out += ["", f"| state | {' | '.join(f'`{kind.__name__}`' for kind in kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for state, table in EDGE.items():
        out.append(f"| {state.name} | {' | '.join(table[k].value if k in table else '–' for k in kinds)} |")
    return "\n".join(out)


def device_block() -> str:
    kinds = (Verdict, Extra, Tokens, Logprobs)
    out = [f"| state | {' | '.join(f'`{kind.__name__}`' for kind in kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for state, table in DEVICE.items():
        out.append(f"| {state.name} | {' | '.join(table[k].value if k in table else '–' for k in kinds)} |")
    return "\n".join(out)


def noise_block() -> str:
    out = ["| seed | position | token | key | word | G |", "|---:|---:|---:|---|---|---:|"]
    for seed, position, token in (
        (0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (42, 7, 11), (42, 8, 11), (42, 7, 151935), (20261122, 1000, 31999),
        (2**32, 65536, 4095), (2**63 - 1, 131071, 2),
    ):  # fmt: skip
        word, key = slow_word(seed, position, token), row_key(seed, position)
        out.append(f"| {seed} | {position} | {token} | `{key:016x}` | `{word:016x}` | {slow_gumbel(word):.12f} |")
    return "\n".join(out)


def choice_block() -> str:
    logits = np.array([0.5, 2.0, 1.0, 1.5, -1.0], np.float32)
    out = ["Row of logits: `[0.5, 2.0, 1.0, 1.5, -1.0]`.", ""]
    out += ["| temperature | top-k | top-p | min-p | seed | tokens chosen at positions 0 to 11 |"]
    out += ["|---:|---:|---:|---:|---:|---|"]
    for p, seed in (
        (SamplingParams(), 1), (SamplingParams(0.7), 1), (SamplingParams(1.0, top_k=3), 1),
        (SamplingParams(1.5, 4, 0.9, 0.1), 99), (SamplingParams(0.0), 1),
    ):  # fmt: skip
        chosen = ", ".join(str(choose(logits, p, seed, position)) for position in range(12))
        out.append(f"| {p.temperature:g} | {p.top_k} | {p.top_p:g} | {p.min_p:g} | {seed} | {chosen} |")
    return "\n".join(out)


def digest_block() -> str:
    out = ["| tokens | digest |", "|---|---|"]
    for tokens in ((), (0,), (1,), (0, 0), (1, 2, 3), (151935,)):
        out.append(f"| {list(tokens)} | `{Digest(tokens).value:08x}` |")
    return "\n".join(out)


def _bits(data: bytes) -> str:
    return " ".join(f"{octet:08b}" for octet in data)


def bodies_block() -> str:
    """Two drafts, tokens 3 and 1 of a vocabulary of 5."""
    rows = [(3, [1, 3], [0.25, 0.75]), (1, [0, 1, 4], [0.25, 0.5, 0.25])]
    out = []
    for spec in (
        SchemeSpec("coupled"), SchemeSpec("topk", k=3, bits=4), SchemeSpec("lattice", k=3, resolution=15),
        SchemeSpec("split", bits=4), SchemeSpec("dense"),
    ):  # fmt: skip
        scheme = schemes.make(spec, Law(SamplingParams(), 1, 5), schemes.DEVICE)
        drafts = []
        for token, ids, probs in rows:
            whole = np.zeros(5)
            whole[ids] = probs
            if spec.name == "coupled":
                drafts.append(Drafted(token))
                continue
            support, weights = scheme.quantise(whole, Place(0))  # type: ignore[attr-defined]
            drafts.append(Drafted(token, support, weights, float(weights.sum())))
        body = scheme.encode(Drafts(tuple(drafts)))
        assert scheme.encode(scheme.decode(2, body)) == body
        out += [
            f"**`{spec.name}`**"
            + (f", k {spec.k}, bits {spec.bits}" if spec.name == "topk" else "")
            + (f", k {spec.k}, resolution {spec.resolution}" if spec.name == "lattice" else "")
            + (f", bits {spec.bits}" if spec.name == "split" else "")
            + f", {len(body)} bytes:",
            "",
        ]
        if spec.name in ("topk", "lattice", "split"):
            weighed = "; ".join(f"{d.row()[0].tolist()}: {d.row()[1].tolist()}" for d in drafts)
            out += [f"integer weights {weighed}", ""]
        out += ["```", *(body[at : at + 16].hex(" ") for at in range(0, len(body), 16))]
        out += [_bits(body)] if len(body) <= 8 else []
        out += ["```", ""]
    return "\n".join(out).rstrip()


def extras_block() -> str:
    out = []
    for title, downlink, probs in (
        ("a sparse row", "row", [0.0, 0.0, 0.0, 0.5, 0.5]),
        ("a dense row", "row", [0.125, 0.125, 0.25, 0.25, 0.25]),
    ):
        scheme = schemes.make(SchemeSpec("split", downlink=downlink), Law(SamplingParams(), 1, 5), schemes.EDGE)
        extra = scheme._row(np.array(probs))  # type: ignore[attr-defined]
        out += [f"{title}, probabilities {probs}:", "", "```"]
        out += [*(extra[at : at + 16].hex(" ") for at in range(0, len(extra), 16)), "```", ""]
    scheme = schemes.make(SchemeSpec("split"), Law(SamplingParams(), 1, 5), schemes.EDGE)
    extra = scheme._encode_extra(0, np.array([4, 2]), np.array([0.5, 0.25]))  # type: ignore[attr-defined]
    out += ["two candidates, 4 with probability 0.5 and 2 with 0.25:", "", "```", extra.hex(" "), "```"]
    return "\n".join(out)


def frames_block() -> str:
    text = (0, 1)
    shown: list[tuple[str, Message]] = [
        ("Hello of a model of 5 tokens", hello()),
        ("Open, `coupled`, the prompt 0 1, seed 7", opening()),
        ("Draft of the tokens 3 and 1", drafting(text, (3, 1))),
        (
            "Draft of a tree: 3 and, beside it, 1, then 2 behind the 1",
            structs.replace(drafting(text, (3, 1, 2)), parents=bytes((0, 0, 1))),
        ),
        ("Tokens: 1 and 2 of these accepted, then 4", Tokens(1, 2, (4,), Digest((0, 1, 1, 2, 4)).value, 2, 3, 1, 2)),
        ("Verdict: the first accepted, then 4", Verdict(1, 1, 1, 4, 4, Digest((0, 1, 3, 4)).value)),
        ("Ping", Ping(1.5)),
        ("Error", Error(None, "silent", "bye")),
    ]
    out = []
    for title, message in shown:
        frame = encode(message)
        out += [f"{title}:", "", "```", *(frame[at : at + 24].hex(" ") for at in range(0, len(frame), 24)), "```", ""]
    return "\n".join(out).rstrip()


def logprobs_block() -> str:
    body = encode_logprobs([Logprob(3, -1.5, ((1, -0.5), (3, -1.5)))], 5)
    return "\n".join(["```", body.hex(" "), "```"])


BLOCKS: dict[str, Callable[[], str]] = {
    "fields": fields_block,
    "errors": errors_block,
    "limits": limits_block,
    "edge": edge_block,
    "device": device_block,
    "noise": noise_block,
    "choice": choice_block,
    "digest": digest_block,
    "bodies": bodies_block,
    "extras": extras_block,
    "frames": frames_block,
    "logprobs": logprobs_block,
}


def marked(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}:begin -->\n)(.*?)(\n<!-- {name}:end -->)", re.DOTALL)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_specification_says_what_the_code_does(name: str) -> None:
    page, made = PAGE.read_text("utf-8"), BLOCKS[name]()
    found = marked(name).search(page)
    assert found, f"docs/protocol.md has no block {name}"
    if os.environ.get("AIRDRAFT_WRITE_PROTOCOL"):
        PAGE.write_text(page[: found.start(2)] + made + page[found.end(2) :], "utf-8")
        return
    assert found[2] == made


def test_the_published_noise_is_the_codes() -> None:
    """Read back from the page, as another implementation would."""
    found = marked("noise").search(PAGE.read_text("utf-8"))
    assert found
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in found[2].splitlines()[2:]]
    assert len(rows) == 10
    for seed, position, token, key, word, value in rows:
        ids = np.array([int(token)])
        assert row_key(int(seed), int(position)) == int(key, 16)
        assert int(noise_words(int(seed), int(position), 151936, ids)[0]) == int(word, 16)
        assert abs(gumbel(int(seed), int(position), 151936, ids)[0] - float(value)) < 1e-12


def test_every_error_raised_is_listed() -> None:
    """Every listed code, except the shells' own, is raised somewhere in the core."""
    core = Path(inspect.getfile(messages)).parent
    source = "".join(path.read_text("utf-8") for path in core.rglob("*.py"))
    raised = {found.lower() for found in re.findall(r'RemoteProtocolError\(\s*(?:"|Code\.)(\w+)', source)}
    assert raised <= set(ERROR_CODES)
    assert set(ERROR_CODES) - raised <= {"scheme", "busy", "quota", "revoked", "idle", "silent", "engine", "guide"}


def test_a_peer_with_newer_fields_is_understood() -> None:
    """New fields are appended with defaults. A missing field takes its default, and an unknown one is skipped."""
    draft = msgspec.msgpack.decode(encode(drafting((0, 1), (3,)))[1:])
    decoder = msgspec.msgpack.Decoder(messages.ToEdge)
    assert decoder.decode(msgspec.msgpack.encode(draft[:-1])) == drafting((0, 1), (3,))
    assert decoder.decode(msgspec.msgpack.encode([*draft, b"", {"new": 1}])) == drafting((0, 1), (3,))
    assert isinstance(drafting((0, 1), (3,)), Draft)
