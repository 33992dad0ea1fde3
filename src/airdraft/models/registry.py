"""The engines there are, and which of them runs a model: chosen by name, or by what lies in the model's folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from airdraft.errors import ModelError
from airdraft.models.base import EngineInfo, LanguageModel, TargetEngine
from airdraft.models.engines.hf import HfModel
from airdraft.models.engines.llamacpp import LlamaCppModel, gguf_file
from airdraft.models.engines.llamaserver import LlamaServerTarget
from airdraft.models.engines.nothing import NONE, NoDraft
from airdraft.models.engines.onnx import OnnxModel, graph_path
from airdraft.models.engines.sglang import SglangTarget
from airdraft.models.engines.vllm import VllmTarget
from airdraft.models.files.config import check_ends, codes_of
from airdraft.models.files.digest import of_target
from airdraft.models.files.folder import locate, name_of
from airdraft.models.files.variants import CHECKPOINT, CODES, GGUF, ONNX
from airdraft.models.files.weights import checkpoint_files, gguf_files, graph_files, is_gguf, visible
from airdraft.models.fit import Fit, context_of
from airdraft.models.imports.cache import imported, imported_checkpoint, text_folder
from airdraft.models.imports.checkpoint import check_described
from airdraft.models.imports.read import GgufFile
from airdraft.models.imports.write import check_header
from airdraft.models.sharing import Sharing
from airdraft.models.steady import steadied
from airdraft.models.text import Tokenizer, tokenizer_file
from airdraft.models.threads import Threaded, tried

DRAFTS, TARGETS = 4, 32
"""Texts that a `llamacpp` model holds at once, on the device and at the edge; more take turns."""
TOP_K = 20
"""What vLLM returns without a further option."""
ANY = Fit()
DRAFT_WIDTHS, TARGET_WIDTHS = (1,), (2, 6)
"""Tokens of the forwards by which threads are chosen: a draft's, and a target's without and with drafts to verify."""


@dataclass(frozen=True)
class EngineEntry:
    """One engine as the registry knows it, before it runs anything."""

    make: Callable[..., Any]
    """Its class, a `TargetEngine`, and a `LanguageModel` unless it is remote: made of a path, `name` and `options`."""
    options: tuple[str, ...]
    """The arguments it takes of those of a `Fit`, and sequences, urls and top_k."""
    remote: bool = False
    """Whether it is asked over HTTP; such an engine is for targets only."""
    files: tuple[str, ...] = ()
    """Patterns of a model's files in its folder, by which the engine is found."""
    shared: bool = False
    """Whether such files may lie beside those of another engine, which then goes first."""
    needs: str = ""
    """What such files are, for people."""
    formats: tuple[str, ...] = ()
    """Of a model's files on the hub, see `variants`."""
    weights: Callable[[Path], list[Path]] = lambda path: []
    """The files that define its rows, of those at a path."""
    libraries: tuple[str, ...] = ()
    """What must be installed besides airdraft alone: the extra of the engine's name brings it."""


ENGINES: dict[str, EngineEntry] = {
    "onnx": EngineEntry(
        OnnxModel, ("threads", "context", "splice"), files=("*.onnx", "onnx/*.onnx"), needs="a model.onnx",
        formats=(ONNX, GGUF, CODES),
        weights=lambda folder: graph_files(graph_path(folder)),
    ),
    "hf": EngineEntry(
        HfModel, ("threads", "context", "splice"), files=("*.safetensors", "pytorch_model*.bin"), shared=True,
        needs="a checkpoint in safetensors", formats=(CHECKPOINT,), weights=checkpoint_files,
        libraries=("torch", "transformers"),
    ),
    "llamacpp": EngineEntry(
        LlamaCppModel, ("threads", "context", "kv_type", "gpu_layers", "sequences"), files=("*.gguf",),
        needs="a .gguf file", formats=(GGUF,),
        weights=lambda path: gguf_files(gguf_file(path)), libraries=("llama_cpp", "gguf", "safetensors"),
    ),
    "vllm": EngineEntry(VllmTarget, ("urls", "top_k"), remote=True),
    "sglang": EngineEntry(SglangTarget, ("urls", "top_k"), remote=True),
    "llamaserver": EngineEntry(LlamaServerTarget, ("urls", "top_k"), remote=True),
}  # fmt: skip
"""A new engine gets its line here."""
HERE = tuple(name for name, entry in ENGINES.items() if not entry.remote)
"""Engines of this process."""
REMOTE = tuple(name for name, entry in ENGINES.items() if entry.remote)
"""Engines that are asked over HTTP; for targets only."""
_DEFAULT = "onnx"
_TARGET = "target"


def load(
    name: str, *, engine: str | None = None, fit: Fit = ANY, steady: bool = False, digest: bool = False
) -> tuple[LanguageModel, Tokenizer]:
    """The model called `name` (see `resolve`) and its tokenizer, to run here.

    engine: of `HERE`; None takes the one whose files are in the folder.
    fit: what the engine must take; threads that are left open are chosen by a trial.
    steady: whether its rows must be those that `load_target` gives, which takes a trial; a draft need not.
    digest: whether to say what defines its rows, for which its weights are read once more.
    Raises: `ModelError` if either cannot be had.
    """
    path, engine = _here(name, engine, fit)
    _check_fit(engine, fit)
    tokenizer = _tokenizer(path)  # before gigabytes of weights are read
    model = _make(engine, path, name, fit, DRAFT_WIDTHS, sequences=DRAFTS)
    _check(name, path, model.eos_ids, model.vocab_size, tokenizer)
    if digest:
        model.info = _described(model.info, engine, path, tokenizer)
    return _within(steadied(model) if steady else model, fit), tokenizer


def load_draft(
    draft: str, *, engine: str | None = None, tokenizer: str | None = None, fit: Fit = ANY, digest: bool = False
) -> tuple[LanguageModel, Tokenizer]:
    """What a device drafts with: the model called `draft`, or with `none` no model, and the target's tokenizer alone.

    tokenizer: the model whose tokenizer that is; None: of `target`. None of its weights are read.
    digest: as in `load`.
    Raises: `ModelError` if either cannot be had, or an option is given that has no use.
    """
    if draft != NONE:
        if tokenizer is not None:
            raise ModelError(
                f"--tokenizer names {tokenizer}, and the draft {draft} has its own; leave it out, or say --draft none"
            )
        return load(draft, engine=engine, fit=fit, digest=digest)
    if engine is not None:
        raise ModelError(f"no draft runs on {engine}; name a draft, or leave the engine out")
    if fit.given:
        raise ModelError(f"{', '.join(fit.given)}: there is no draft to run so; name a draft, or leave them out")
    words = Tokenizer(draft_files(draft, tokenizer=tokenizer))
    return NoDraft(words.vocab_size), words


def draft_files(draft: str, *, engine: str | None = None, tokenizer: str | None = None) -> Path:
    """Where tokenizer and chat template of a draft lie, or those that a device has without one; see `load_draft`.

    Raises: `ModelError` if there is no such model.
    """
    return text_files(tokenizer or _TARGET) if draft == NONE else _here(draft, engine)[0]


def load_target(
    name: str,
    *,
    engine: str | None = None,
    urls: Sequence[str] = (),
    top_k: int | None = None,
    fit: Fit = ANY,
) -> tuple[TargetEngine, Tokenizer]:
    """The target called `name`, to serve, and its tokenizer. Of an engine here the rows are steady, see `steady`.

    engine: of `HERE` or `REMOTE`; None as in `load`.
    urls, top_k: of a remote engine: its replicas, and how many of the most likely tokens it is asked for, `TOP_K` if
    left out.
    fit: as in `load`.
    Raises: `ModelError` if either cannot be had.
    """
    if engine in REMOTE:
        if not urls:
            raise ModelError(
                f"{engine} runs elsewhere; name where it is, --url http://HOST:PORT, once for each replica"
            )
        path = resolve(name, engine)
    else:
        for what, given in (("a URL", urls), ("a number of likely tokens", top_k)):
            if given:
                raise ModelError(
                    f"{what} is for the engines {', '.join(REMOTE)}; name one with --engine, or leave it out"
                )
        path, engine = _here(name, engine, fit)
    _check_fit(engine, fit)
    tokenizer = _tokenizer(path)
    model = _make(engine, path, name, fit, TARGET_WIDTHS, sequences=TARGETS, urls=urls, top_k=top_k or TOP_K)
    _check(name, path, model.info.eos_ids, model.info.vocab_size, tokenizer)
    model.info = _described(model.info, engine, path, tokenizer)
    if engine in REMOTE:  # an engine here has checked it before it read its weights
        context_of(name, fit.context, model.info.max_context, 0, 0)
    return _within(model if engine in REMOTE else steadied(model), fit), tokenizer


def load_helping(draft: str, target: Tokenizer, *, engine: str | None = None, fit: Fit = ANY) -> TargetEngine:
    """What an edge drafts with itself: the model called `draft`, which must have the vocabulary of `target`.

    Raises: `ModelError` if it cannot be had, or has another vocabulary, which is seen before its weights are read.
    """
    path, engine = _here(draft, engine, fit)
    _check_fit(engine, fit)
    tokenizer = _tokenizer(path)
    if (tokenizer.digest, tokenizer.vocab_size) != (target.digest, target.vocab_size):
        raise ModelError(
            f"the edge's draft {draft} ({tokenizer.vocab_size} tokens) and its target ({target.vocab_size} tokens) do "
            "not share one vocabulary; pick a draft with the target's own tokenizer"
        )
    model = _make(engine, path, draft, fit, DRAFT_WIDTHS, sequences=TARGETS)
    _check(draft, path, model.info.eos_ids, model.info.vocab_size, tokenizer)
    model.info = _described(model.info, engine, path, tokenizer)
    found: TargetEngine = _within(model, fit)
    return found


def _described(info: EngineInfo, engine: str, path: Path, tokenizer: Tokenizer) -> EngineInfo:
    """What an engine declares, with the digest of what defines its rows."""
    return replace(info, digest=of_target(info.digest, ENGINES[engine].weights(path), tokenizer.digest))


def resolve(name: str, engine: str | None = None, fit: Fit = ANY) -> Path:
    """Where the model called `name` lies, see `locate`.

    Of a hub model the files that `engine` needs are downloaded once, into the hub's own cache; without an engine those
    of the first that runs what the repository has. A GGUF file is imported for the onnx engine, once, unless another
    engine is asked for; so is a checkpoint in the codes of AWQ or GPTQ.
    fit: what its engine must take, as far as that is seen before its weights are read.
    Raises: `ModelError` if there is no such model, or no such engine, or it does not fit.
    """
    return _resolved(name, engine, fit)[0]


def weights_of(name: str, engine: str | None = None) -> list[Path]:
    """The files of weights of the model called `name`, to run here; as they are, whatever is imported from them.

    Raises: `ModelError` if there is no such model.
    """
    if engine in REMOTE:
        return ENGINES[engine].weights(_here(name, engine)[0])
    path, engine, form = _located(name, engine)
    if form == GGUF or (_found(path) == "llamacpp" and (engine is None or path.is_file())):
        return gguf_files(gguf_file(path))
    if _in_codes(path, engine):
        return checkpoint_files(path)
    return ENGINES[engine or _engine_of(path)].weights(path)


def text_files(name: str) -> Path:
    """The folder of tokenizer and chat template of the model called `name`; of a hub model nothing else is downloaded,
    unless a GGUF file holds them.

    Raises: `ModelError` if there is no such model.
    """
    path, _ = locate(name, {})
    if path.is_dir() and not tokenizer_file(path).is_file() and any(visible(path, "*.gguf")):
        path = gguf_file(path)
    return text_folder(path)


def _located(name: str, engine: str | None, fit: Fit = ANY) -> tuple[Path, str | None, str]:
    """Where a model lies as it is, the engine that was asked for, or that a hub's names tell, and its format there.

    Raises: `ModelError`, also if it cannot fit; of a hub's model before all of it is fetched.
    """
    if engine is not None and engine not in ENGINES:
        raise ModelError(f"no engine {engine!r}; choose one of {', '.join(ENGINES)}")
    formats = {
        form: lack(runs) or _unfit(runs, fit)
        for each in ([engine] if engine else _order())
        for form in ENGINES[each].formats
        for runs in (_DEFAULT if form == GGUF and engine is None else each,)
    }
    path, form = locate(name, formats, partial(_check_import, fit) if engine in (None, _DEFAULT) else lambda file: None)
    return path, engine or _ENGINE_OF.get(form), form


def _check_import(fit: Fit, file: GgufFile) -> None:
    """Refuse a GGUF file that cannot be imported, or would then not fit, from its header. Raises: `ModelError`."""
    decoder = check_header(file)
    _check_fit(_DEFAULT, fit)
    numbers = 2 * decoder.layers * decoder.kv_heads * decoder.head_dim
    context_of(file.path, fit.context, decoder.context, 4 * numbers, file.size)


def _check_codes(fit: Fit, folder: Path) -> None:
    """As `_check_import`, of a checkpoint in codes, from its config. Raises: `ModelError`."""
    facts = check_described(folder)
    _check_fit(_DEFAULT, fit)
    size = sum(file.stat().st_size for file in checkpoint_files(folder) if file.is_file())
    context_of(folder, fit.context, facts.max_context, 4 * facts.kv_numbers, size)


def _in_codes(path: Path, engine: str | None) -> bool:
    """Whether a path holds a checkpoint in codes, and the engine is the one that it is imported for."""
    return engine in (None, _DEFAULT) and path.is_dir() and _found(path) == "hf" and codes_of(path) != ""


def _resolved(name: str, engine: str | None, fit: Fit = ANY) -> tuple[Path, str | None]:
    """Where a model lies, and the engine that was asked for, or that a hub's names tell. Raises: `ModelError`."""
    if engine in REMOTE:
        return text_files(name), engine
    path, engine, form = _located(name, engine, fit)
    own = "llamacpp" if form == GGUF else _found(path)
    if own == "llamacpp" and (engine is None or (engine == _DEFAULT and path.is_file())):
        return imported(gguf_file(path), partial(_check_import, fit)), _DEFAULT
    if _in_codes(path, engine):
        _check_codes(fit, path)
        return imported_checkpoint(path), _DEFAULT
    if path.is_file() and engine not in (None, own):
        raise ModelError(f"{name} is a file for the {own} engine; leave {engine} out, or name another model")
    return path, engine


_ENGINE_OF = {ONNX: _DEFAULT, GGUF: _DEFAULT, CODES: _DEFAULT, CHECKPOINT: "hf"}


def lack(engine: str) -> str:
    """What is not installed that an engine needs, with the remedy; empty if nothing is."""
    missing = [name for name in ENGINES[engine].libraries if importlib.util.find_spec(name) is None]
    return f"the {engine} engine needs {', '.join(missing)}; pip install 'airdraft[{engine}]'" if missing else ""


def _here(name: str, engine: str | None, fit: Fit = ANY) -> tuple[Path, str]:
    """Where a model lies, and the engine of this process that runs it. Raises: `ModelError`."""
    if engine in REMOTE:
        raise ModelError(f"{engine} serves targets; a model here runs on {', '.join(HERE)}")
    path, engine = _resolved(name, engine, fit)
    return path, engine or _engine_of(path)


def _engine_of(path: Path) -> str:
    """The engine whose files are there. Raises: `ModelError` if there are none."""
    name = _found(path)
    if name is None:
        *first, last = (ENGINES[name].needs for name in _order())
        raise ModelError(f"{path} holds no model; it needs {', '.join(first)} or {last}")
    return name


def _found(path: Path) -> str | None:
    """The engine whose files are there, if any."""
    for name in _order():
        if any(path.match(each) if path.is_file() else any(visible(path, each)) for each in ENGINES[name].files):
            return name
    return "llamacpp" if path.is_file() and is_gguf(path) else None


def _order() -> list[str]:
    return sorted(HERE, key=lambda name: ENGINES[name].shared)


def _unfit(engine: str, fit: Fit) -> str:
    """What of `fit` an engine has no use for, with the remedy; empty if nothing. A context bounds the texts of any."""
    for option in fit.given:
        if option not in (*ENGINES[engine].options, "context"):
            takers = ", ".join(name for name, entry in ENGINES.items() if option in entry.options)
            where = "set it where that is started" if engine in REMOTE else "leave it out"
            name = option.replace("_", "-")
            return f"{name} is not for the engine {engine}; {where}, or take another engine ({takers})"
    return ""


def _check_fit(engine: str, fit: Fit) -> None:
    """Refuse what an engine has no use for. Raises: `ModelError`."""
    if unfit := _unfit(engine, fit):
        raise ModelError(unfit)


def _make(engine: str, path: Path, name: str, fit: Fit, widths: Sequence[int], **options: Any) -> Any:
    """The model at a path; where the number of threads is left open, on those on which `widths` are fastest."""
    entry = ENGINES[engine]
    options |= asdict(fit)
    made = entry.make(path, name=name_of(name), **{option: options[option] for option in entry.options})
    if fit.threads is None and isinstance(made, Threaded):
        tried(made, widths)
    return Sharing(made) if fit.splice else made


def _within(model: Any, fit: Fit) -> Any:
    """The model, whose texts are no longer than asked for."""
    if fit.context is not None:
        model.info = replace(model.info, max_context=min(model.info.max_context, fit.context))
    return model


def _tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of the model at a path: in its folder, or in its GGUF file. Raises: `ModelError`."""
    return Tokenizer(text_folder(path))


def _check(name: str, path: Path, eos_ids: Sequence[int], scored: int, tokenizer: Tokenizer) -> None:
    """Check that a model's facts go together. Raises: `ModelError`."""
    check_ends(path, eos_ids, scored)
    if tokenizer.vocab_size > scored:
        raise ModelError(
            f"the tokenizer of {name} has {tokenizer.vocab_size} tokens and the model scores {scored}; "
            "take both from one model"
        )
