"""Every scheme over real processes and sockets, after the same prompts, and a check of what was written."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from airdraft import local
from airdraft.control.auto import Auto
from airdraft.core import schemes
from airdraft.core.events import Committed
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Counts, Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.client import EdgeConnection
from airdraft.device.cost import CostMeter
from airdraft.errors import BadParameterError
from airdraft.lab.results import HELPED
from airdraft.models.base import LanguageModel
from airdraft.models.profile import Paced, profile
from airdraft.models.registry import load
from airdraft.models.text import Tokenizer
from airdraft.sim import alone
from airdraft.sim.conformance import Conformance, conformance, remembered
from airdraft.sim.pair import Pair
from airdraft.telemetry.feed import Feed
from airdraft.telemetry.trace import Traces

PROMPTS = (
    'import os\n\n\ndef read_lines(path):\n    """Return the lines of a text file, without their newlines."""\n'
    "    with open(path",
    'class Stack:\n    """A last-in, first-out container."""\n\n    def __init__(self):\n        self._items = []\n\n'
    "    def push(self, item):\n",
    "import json\n\n\ndef load_config(path, default=None):\n"
    '    """Read a JSON file and return its contents as a dict."""\n',
)

PUBLISHED = schemes.named(published=True)
ROUNDS = schemes.named(rounds=True)
WITHOUT_ROUNDS = (*schemes.named(rounds=False, drafts=True), "auto")
DRAFTING = (*ROUNDS, *WITHOUT_ROUNDS)

CONFORMS = 1e-4
"""A scheme whose p-value is below this is not exact."""

SEEDS = 15
"""Further seeds for measuring acceptance: three texts are too few to tell the schemes apart."""

CONFORMANCE_TOP_K = 8
"""Tokens that conformance looks at, the likeliest ones: it counts whole texts, and otherwise all would be rare."""


@dataclass(frozen=True)
class Plan:
    """The settings of a run."""

    draft: str
    target: str
    profile: str
    link: local.Link
    spec: SchemeSpec
    """Options of the schemes; its name is not used."""
    params: SamplingParams
    seed: int
    max_tokens: int
    draft_length: int
    """Draft length of schemes with rounds; `stream` and `auto` choose for themselves."""
    trials: int

    def __post_init__(self) -> None:
        """Raises: `BadParameterError` for what no text could be written with: before models and processes start."""
        for name, value, least in (("max-tokens", self.max_tokens, 1), ("draft-length", self.draft_length, 0)):
            if value < least:
                raise BadParameterError(f"{name} is {value}; give at least {least}")
        if not 0 <= self.seed < 1 << 63:
            raise BadParameterError(f"seed is {self.seed}; give a whole number from 0 to 2^63 - 1")


@dataclass
class SchemeRow:
    """One scheme over all prompts."""

    scheme: str
    cost: CostMeter = field(default_factory=CostMeter)
    texts: list[list[int]] = field(default_factory=list)
    identical: int = 0
    """Texts that equal those of the target alone with the same seed, token for token."""
    conformance: Conformance | None = None
    sample: Counts = field(default_factory=Counts)
    """Drafts and acceptances of `SEEDS` texts a prompt, written in memory at full speed."""
    why: str | None = None
    """`auto`: what it chose last, and why."""

    @property
    def exact(self) -> bool:
        """Whether there are texts, and they are the target's: the very same, or drawn from its distribution."""
        if any(self.texts) and self.identical == len(self.texts):
            return True
        return self.conformance is not None and self.conformance.p_value >= CONFORMS

    def record(self) -> dict[str, Any]:
        """For JSON."""
        tested = self.conformance
        return {
            "scheme": self.scheme,
            **self.cost.figures(),
            "acceptance_rate": self.sample.acceptance_rate,
            "acceptance_sample": self.sample.accepted + self.sample.rejected,
            "acceptance_rate_of_timed_texts": self.cost.figures()["acceptance_rate"],
            "exact": self.exact,
            "identical_texts": self.identical,
            "texts": len(self.texts),
            "p_value": tested.p_value if tested else None,
            "trials": tested.trials if tested else None,
            "why": self.why,
        }


Watch = Callable[[int, EdgeConnection], contextlib.AbstractAsyncContextManager[Callable[[Committed], object]]]
"""Is entered with the number of a prompt while it is written over a connection, and yields who is told of commits."""


@contextlib.asynccontextmanager
async def _unwatched(at: int, client: EdgeConnection) -> AsyncIterator[Callable[[Committed], object]]:
    yield lambda event: None


@contextlib.asynccontextmanager
async def _connected(
    plan: Plan, draft: LanguageModel, tokenizer: Tokenizer, options: Sequence[str], feed: Feed | None = None
) -> AsyncIterator[EdgeConnection]:
    """A device's connection to an edge process with these options, behind a link process."""
    async with local.edge(plan.target, plan.profile, plan.link, options) as url:
        paced = Paced(draft, profile(plan.profile).draft_s)
        digest, size = tokenizer.digest, tokenizer.vocab_size
        traces = Traces(None, "device", feed=feed) if feed else None
        async with await EdgeConnection.connect(url, paced, digest, size, traces=traces) as client:
            yield client


class Bench:
    """The device's side: both models (the target only to know what it writes alone) and a connection."""

    def __init__(
        self, plan: Plan, draft: LanguageModel, target: LanguageModel, tokenizer: Tokenizer, client: EdgeConnection
    ):
        self.plan = plan
        self.draft, self.target, self.tokenizer = draft, target, tokenizer
        self._client = client
        self.prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
        self.truth: list[list[int]] = []
        self._draft_rows, self._target_rows = remembered(draft), remembered(target)

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, plan: Plan) -> AsyncIterator[Bench]:
        """Start an edge process and, before it, a link process; connect to them."""
        draft, tokenizer = load(plan.draft)
        target, _ = load(plan.target)
        async with _connected(plan, draft, tokenizer, local.PLAIN) as client:
            yield cls(plan, draft, target, tokenizer, client)

    def write_truth(self) -> None:
        """Write what the target alone writes, in this process, without device, edge, link or profile."""
        plan = self.plan
        vocab = self.tokenizer.vocab_size
        self.truth = [
            list(alone.write(self.target, prompt, plan.params, plan.seed, plan.max_tokens, vocab))
            for prompt in self.prompts
        ]

    async def helped(self, label: str, watch: Watch = _unwatched, feed: Feed | None = None) -> SchemeRow:
        """Write all prompts at another edge, which speculates as well: one of `HELPED`. Its own draft model is the
        device's, in a tenth of the target's time if compute is imitated. `feed`: is told of the texts."""
        help, plan = HELPED[label], self.plan
        options = ["--propose", ",".join(help.proposers) or "none", *(["--draft", plan.draft] if help.drafts else [])]
        async with _connected(plan, self.draft, self.tokenizer, options, feed) as client:
            row = await self.scheme(help.scheme, watch, client)
        row.scheme = label
        return row

    async def scheme(self, name: str, watch: Watch = _unwatched, client: EdgeConnection | None = None) -> SchemeRow:
        """Write all prompts under one scheme."""
        row, plan, client = SchemeRow(name), self.plan, client or self._client
        spec, counts = structs.replace(plan.spec, name=schemes.STREAM if name == "auto" else name), row.cost.counts
        length = None if name in WITHOUT_ROUNDS else plan.draft_length
        for at, prompt in enumerate(self.prompts):
            policy = Auto(self.tokenizer.vocab_size, k=spec.k, bits=spec.bits) if name == "auto" else None
            request = Request(
                prompt, spec, plan.params, plan.seed, plan.max_tokens, length, counts=counts, policy=policy
            )
            tokens: list[int] = []
            async with watch(at, client) as on_commit:
                with row.cost.measuring(client):
                    async for event in client.write(request):
                        if isinstance(event, Committed):
                            tokens += event.tokens
                            on_commit(event)
            row.texts.append(tokens)
            row.identical += tokens == self.truth[at]
            row.why = policy.why() if policy else None
        return row

    async def device_only(self) -> SchemeRow:
        """Let the draft model write by itself: fast, and not the target's text."""
        row, plan = SchemeRow("device"), self.plan
        paced = Paced(self.draft, profile(plan.profile).draft_s)
        for prompt, truth in zip(self.prompts, self.truth, strict=True):
            began = time.perf_counter()
            writing = alone.write(paced, prompt, plan.params, plan.seed, plan.max_tokens, self.tokenizer.vocab_size)
            tokens = await asyncio.to_thread(list, writing)
            row.cost.seconds += time.perf_counter() - began
            row.cost.counts.committed += len(tokens)
            row.cost.counts.draft_rows += len(tokens)
            row.texts.append(tokens)
            row.identical += tokens == truth
        return row

    def sample(self, name: str) -> Counts:
        """Count what becomes of drafts over many texts: both machines and models in this process, no link, no
        profile."""
        plan, counts, pair = self.plan, Counts(), Pair(self.draft, self.target)
        # Racing decides which drafts are judged, not what becomes of them; without it all are.
        spec = structs.replace(plan.spec, name=name, race="off")
        for seed in range(plan.seed + 1, plan.seed + 1 + SEEDS):
            for prompt in self.prompts:
                pair.write(Request(prompt, spec, plan.params, seed, plan.max_tokens, plan.draft_length, counts=counts))
        return counts

    def conform(self, name: str) -> Conformance:
        """Run the conformance test of one scheme on the pair's own rows, after the first prompt."""
        plan, params = self.plan, self.plan.params
        if params.temperature > 0 and not 0 < params.top_k <= CONFORMANCE_TOP_K:
            params = SamplingParams(params.temperature, CONFORMANCE_TOP_K, params.top_p, params.min_p)
        return conformance(
            self._draft_rows, self._target_rows, structs.replace(plan.spec, name=name), params,
            prompt=self.prompts[0], depth=3, draft_length=2, trials=plan.trials, seed=plan.seed,
        )  # fmt: skip
