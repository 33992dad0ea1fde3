"""The checks of `airdraft doctor`: each looks at one thing about a pair of models, and says a verdict and a remedy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from airdraft.cli.doctor import finding
from airdraft.cli.doctor.finding import BAD, LOOK, OK, SKIPPED, VERIFIED, Finding, Known, Subject, forward_s
from airdraft.cli.doctor.link_checks import visited, ways
from airdraft.device.shipped import shipped_for
from airdraft.errors import ModelError
from airdraft.models.base import EngineInfo, Exactness, LanguageModel, LocalEngine
from airdraft.models.fit import free_bytes
from airdraft.models.imports.cache import text_folder
from airdraft.models.registry import draft_files, load, text_files, weights_of
from airdraft.models.text import Tokenizer
from airdraft.sim import alone

GOOD_ACCEPTANCE, SLOW_DRAFT, DEAR_ROWS = 0.5, 0.5, 1.5
"""Where to look: a lower acceptance, a draft that takes more of a target's forward, `VERIFIED` rows that take more than
one."""
SPARE = 0.9
"""Share of the free memory that models may take."""


def examine(subject: Subject) -> Iterator[Finding]:
    """Look at everything, and yield each finding as soon as it is there.

    Raises: `ModelError` for a model that cannot be had, `BadParameterError`.
    """
    known = Known(Tokenizer(text_folder(draft_files(subject.draft, engine=subject.draft_engine))))
    prompts = subject.prompts(known.tokenizer)
    if subject.target is not None:
        yield vocabulary(subject, known)
    if subject.edge is not None:
        yield visited(subject, known, prompts)
    yield from memory(subject, known)
    yield speeds(subject, known)
    yield acceptance(subject, known, prompts)
    yield exactness(subject, known)
    yield from ways(subject, known)


def vocabulary(subject: Subject, known: Known) -> Finding:
    """Whether draft and target mean the same tokens by their ids."""
    target = subject.target or ""
    own, other = known.tokenizer, Tokenizer(text_files(target))
    known.fits = (own.digest, own.vocab_size) == (other.digest, other.vocab_size)
    if known.fits:
        return Finding("vocabulary", OK, f"one, of {own.vocab_size:,} tokens", figures={"tokens": own.vocab_size})
    differing = own.differences(other)
    at, here, there = differing[0]
    says = (
        f"{len(differing):,} ids differ (draft {own.vocab_size:,} tokens, target {other.vocab_size:,}); the first is "
        f"{at}: {_token(here)} in {subject.draft}, {_token(there)} in {target}"
    )
    fitting = shipped_for(other)
    take = f"--draft {fitting}, which ships and fits" if fitting else "a draft with the target's own tokenizer"
    remedy = f"take {take}, or none: --draft none --tokenizer {target}"
    figures = {"draft_tokens": own.vocab_size, "target_tokens": other.vocab_size, "differing": len(differing)}
    return Finding("vocabulary", BAD, says, remedy, {**figures, "first": [at, here, there]})


def _token(name: str | None) -> str:
    return "nothing" if name is None else repr(name[:30])


def memory(subject: Subject, known: Known) -> Iterator[Finding]:
    """Whether weights, and the keys and values of a text, fit into the memory that is free. Loads what fits."""
    for side, name, engine, fit in (
        ("draft", subject.draft, subject.draft_engine, subject.draft_fit),
        ("target", subject.target, subject.engine, subject.fit),
    ):
        if name is None:
            continue
        check, free = f"memory, {side}", free_bytes()
        weights = sum(path.stat().st_size for path in weights_of(name, engine) if path.is_file())
        if free is not None and weights > SPARE * free:
            says = f"its weights take {_size(weights)}, and {_size(free)} are free"
            remedy = "take fewer bits (a Q4 file), a smaller model, or a machine with more memory"
            yield Finding(check, BAD, says, remedy, {"weights_bytes": weights, "free_bytes": free})
            continue
        model = load(name, engine=engine, fit=fit, steady=side == "target")[0]
        if side == "draft":
            known.draft = model
        else:
            known.target = model
        yield _room(check, model, weights, free, subject.fit.context)


def _info(model: LanguageModel) -> EngineInfo:
    if not isinstance(model, LocalEngine):
        raise ModelError(f"{model.name} does not run here; name a model that does")
    return model.info


def _room(check: str, model: LanguageModel, weights: int, free: int | None, context: int | None) -> Finding:
    """The finding about a model that is loaded. `free`: before it was."""
    each = _info(model).position_bytes
    positions = min(model.max_context, context or model.max_context)
    figures: dict[str, Any] = {
        "weights_bytes": weights,
        "position_bytes": each,
        "context": positions,
        "free_bytes": free,
    }
    says = f"weights {_size(weights)}"
    if each is None:
        return Finding(check, OK, f"{says}; what a text takes this engine does not tell", figures=figures)
    says += f", a text of {positions:,} positions {_size(each * positions)}"
    if free is None:
        return Finding(check, SKIPPED, f"{says}; how much is free this system does not say", figures=figures)
    says += f", {_size(free)} free before"
    left = int((SPARE * free - weights) // each)
    if left >= positions:
        return Finding(check, OK, says, figures=figures)
    remedy = f"keep texts below {left:,} positions: end chats sooner, or give the edge --kv-tokens {left}"
    return Finding(check, LOOK, says, remedy, figures)


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def speeds(subject: Subject, known: Known) -> Finding:
    """How long forwards take here."""
    if known.draft is None:
        return Finding("speed", SKIPPED, "the draft was not loaded, see memory")
    known.draft_s = forward_s(known.draft)
    says = [f"a draft token takes {1e3 * known.draft_s:.2f} ms here"]
    remedies = []
    if known.target is not None:
        known.one_s, known.verify_s = forward_s(known.target), forward_s(known.target, VERIFIED)
        says.append(
            f"a target token {1e3 * known.one_s:.2f} ms, {VERIFIED} rows {1e3 * known.verify_s:.2f} ms "
            f"({known.verify_s / known.one_s:.2f} ×)"
        )
        if known.verify_s > DEAR_ROWS * known.one_s:
            remedies.append(
                "several rows cost more than one: where the target runs, memory should be the limit, not compute"
            )
    if known.visit is not None:
        known.one_s = known.verify_s = known.visit.probe.verify_s
        says.append(f"a forward at the edge {1e3 * known.verify_s:.2f} ms")
    if known.one_s is not None and known.draft_s > SLOW_DRAFT * known.one_s:
        remedies.append(
            f"the draft takes {known.draft_s / known.one_s:.2f} of a target's forward: a smaller draft, or fewer bits"
        )
    figures = {"draft_ms": known.draft_s, "target_ms": known.one_s, f"target_{VERIFIED}_rows_ms": known.verify_s}
    told = {name: None if value is None else 1e3 * value for name, value in figures.items()}
    return Finding("speed", LOOK if remedies else OK, ", ".join(says), "; ".join(remedies) or None, told)


def acceptance(subject: Subject, known: Known, prompts: Sequence[list[int]]) -> Finding:
    """The share of the target's own tokens that the draft chooses with the same noise, after the user's prompts."""
    check, draft = "acceptance", known.draft
    if not known.fits:
        return Finding(check, SKIPPED, "the two share no vocabulary")
    if draft is None:
        return Finding(check, SKIPPED, "the draft was not loaded, see memory")
    if known.target is None and known.visit is None:
        return Finding(check, SKIPPED, "no target wrote a text, see above")
    vocab, params = known.tokenizer.vocab_size, subject.params
    agreed: list[bool] = []
    texts, until = 0, time.monotonic() + finding.TEXTS_S
    for at, prompt in enumerate(prompts):
        if known.target is not None and (not texts or time.monotonic() < until):
            tokens = list(alone.write(known.target, prompt, params, subject.seed + at, finding.TOKENS, vocab))
        elif known.visit is not None and at < len(known.visit.texts):
            tokens = known.visit.texts[at]
        else:
            break
        tokens = tokens[: max(0, draft.max_context - len(prompt))]
        agreed += alone.agreeing(draft, prompt, tokens, params, subject.seed + at, vocab)
        texts += 1
    if not agreed:
        return Finding(check, SKIPPED, "every prompt is as long as the draft's context; give shorter ones")
    known.acceptance = sum(agreed) / len(agreed)
    says = f"{known.acceptance:.2f} at temperature {params.temperature:g}, {len(agreed)} tokens after {texts} prompts"
    figures = {"acceptance": known.acceptance, "tokens": len(agreed), "texts": texts, "temperature": params.temperature}
    if known.acceptance >= GOOD_ACCEPTANCE:
        return Finding(check, OK, says, figures=figures)
    remedy = "take a draft of the target's own family, one distilled from it, or a lower temperature"
    return Finding(check, LOOK, says, remedy, figures)


def exactness(subject: Subject, known: Known) -> Finding:
    """What the target's rows depend on besides the text."""
    check = "exactness"
    if known.target is not None:
        found = _info(known.target).exactness
    elif known.visit is not None and known.visit.welcome.exactness:
        found = Exactness.of(known.visit.welcome.exactness)
    elif known.visit is not None:
        remedy = "`airdraft edge` says it at its start; update the edge if it is older than this device"
        return Finding(check, LOOK, "the edge does not tell", remedy)
    else:
        return Finding(check, SKIPPED, "no target was loaded or reached, see above")
    shares = found.shares
    if not any(shares.values()) and None not in shares.values():
        return Finding(check, OK, found.words, figures=found.told)
    if found.losses:
        remedy = "for the target's own texts start the edge without --prompts-codec"
    elif shares["width"] == shares["company"] == 0:
        remedy = "give the edge --max-batch 1 where the last bit matters"
    else:
        remedy = "another engine keeps rows to the bit: `airdraft import FILE.gguf FOLDER` makes a folder for onnx"
    return Finding(check, LOOK, found.words, remedy, found.told)
