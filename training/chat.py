"""Makes the draft of the chat pair, `pair/chat-draft`, whose target is SmolLM2-135M-Instruct.

  python -m training.chat export card --from FOLDER     a trained draft, as it ships, and its card
  python -m training.chat --device cuda                 every step, from nothing

steps, in order:
  text    let the target write after the prompts of chat_prompts.toml, for --text-minutes
  draft   distil the draft from that text, for --minutes
  export  write the folder that ships: 8 and 4 bits, see export_blocks.py
  card    measure it along the target's own text; write README.md and card.json

Needs: pip install 'airdraft[train]'. The target is the one that airdraft calls `chat-target`, fetched once. Training
resumes from its checkpoint in --work; delete the folder to start over.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

from airdraft.errors import AirdraftError
from training import steps
from training.errors import UserError

STEPS = ("text", "draft", "export", "card")
HERE = Path(__file__).resolve().parent
LIMIT_BYTES = 24_000_000
"""Of the folder that ships."""
PROMPTS = 20_000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = steps.parser("python -m training.chat", __doc__, STEPS)
    add = p.add_argument
    add("--work", type=Path, help="text, checkpoints and logs; never committed (default: $AIRDRAFT_TRAINING or /tmp)")
    add("--out", type=Path, default=HERE.parent / "pair" / "chat-draft", help="where the draft goes")
    add("--from", dest="source", type=Path, help="a trained draft: config.json, model.safetensors (default: of --work)")
    add("--target", type=Path, help="SmolLM2-135M-Instruct as GGUF (default: fetched)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--text-minutes", type=float, default=4.0, help="wall time in which the target writes (default: 4)")
    add("--minutes", type=float, default=12.0, help="wall time for the distillation (default: 12)")
    add("--rows", type=int, default=512, help="texts written at once (default: 512)")
    add("--layers", type=int, default=5, help="layers of the draft (default: 5)")
    add("--width", type=int, default=320, help="width of the draft, a multiple of 64 (default: 320)")
    add("--context", type=int, default=512, help="tokens of a training text (default: 512)")
    add("--near", type=int, default=128, help="columns of the embedding that keep 8 bits (default: 128)")
    add("--texts", type=int, default=40, help="texts of the target's along which the draft is measured (default: 40)")
    add("--no-compile", action="store_true", help="do not use torch.compile, which needs a C++ compiler")
    return p


def check(args: argparse.Namespace) -> None:
    """Refuses what would fail much later."""
    steps.check(args.steps, STEPS)
    if args.width <= 0 or args.width % 64 or args.near % 32 or not 0 < args.near <= args.width:
        raise UserError("--width must be a multiple of 64, and --near of 32 and no more than it")
    if min(args.layers, args.rows, args.texts) < 1 or args.context < 32:
        raise UserError("--layers, --rows and --texts must be at least 1, and --context at least 32")
    if min(args.minutes, args.text_minutes) <= 0:
        raise UserError("--minutes and --text-minutes must be more than 0")


def run(args: argparse.Namespace) -> None:
    """The chosen steps, in their order."""
    steps.require("gguf", "safetensors", "torch")
    from airdraft.models.files.fetch import chat_target
    from training import card, chat_card, chat_prompts, distill, export_blocks, generate, runtime
    from training import chat_target as gguf_target
    from training.model import Config, Llama, save

    work: Path = (args.work or card.scratch()) / "chat"
    work.mkdir(parents=True, exist_ok=True)
    device = runtime.device_of(args.device)
    source: Path = args.source or work / "draft"

    def target() -> Llama:
        return gguf_target.load(args.target or chat_target(), args.context)

    for step in steps.chosen(args.steps, STEPS):
        if step == "text":
            model = target()
            save(model, work / "target")
            ids = chat_card.encoded(args.out, itertools.islice(chat_prompts.prompts(1), PROMPTS))
            generate.answers(model.to(device), ids, work, args.text_minutes, args.rows, args.context)
        elif step == "draft":
            wide = json.loads((work / "target" / "config.json").read_text("utf-8"))
            config = Config(
                wide["vocab_size"], args.width, args.layers, args.width // 64, 3 * args.width, args.context,
                wide["rope_theta"], wide["rms_norm_eps"], tied=True, bos=wide["bos_token_id"], eos=wide["eos_token_id"],
            )  # fmt: skip
            plan = distill.DraftPlan(
                args.minutes, context=args.context, own_rows=16, rate=0.01, compile=not args.no_compile
            )
            distill.run(work / "target", config, plan, work, work / "draft", device)
        elif step == "export":
            size = export_blocks.folder(source, args.out, args.near)
            print(f"{args.out}: {size / 1e6:.1f} MB")
            if size > LIMIT_BYTES:
                print(f"note: that is more than the {LIMIT_BYTES / 1e6:.0f} MB kept in the repository")
        else:
            for temperature, found in chat_card.write(args.out, source, target(), args.texts)["acceptance"].items():
                print(
                    f"temperature {temperature}: coupled {found['shipped']['coupled']:.3f} in {found['tokens']} tokens"
                )


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 2 for something the user can put right."""
    args = parser().parse_args(argv)

    def work() -> None:
        check(args)
        run(args)

    return steps.main(work, (UserError, AirdraftError))


if __name__ == "__main__":
    sys.exit(main())
