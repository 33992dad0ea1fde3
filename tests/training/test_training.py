"""Schedules, data order, losses and the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import data, distill, generate, model, pair, runtime, schedule, train_target  # noqa: E402

from .ticks import ticking  # noqa: E402


def test_rate_rises_holds_and_ends_at_zero() -> None:
    rates = [schedule.learning_rate(i / 1000) for i in range(1001)]
    assert max(rates) == 1.0
    assert rates[-1] == 0.0
    peak = rates.index(1.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert schedule.learning_rate(7.0) == 0.0


def test_context_grows_once() -> None:
    assert [schedule.context(d, 64) for d in (0.0, 0.5, 0.9, 1.0)] == [32, 32, 64, 64]


def test_turn_to_total_variation() -> None:
    weights = [distill.turned(i / 100, (0.3, 0.6)) for i in range(101)]
    assert weights[0] == 0.0
    assert weights == sorted(weights)
    assert 0.0 < weights[-1] < 1.0


def test_reader_gives_each_window_once() -> None:
    ids = np.arange(8 * 16 + 1, dtype=np.uint16)
    reader = data.Reader(ids, longest=16)
    x, y = reader.batch(8 * 16, context=8)
    assert x.shape == (16, 8)
    assert sorted(x.flatten().tolist()) == list(range(8 * 16))
    assert torch.equal(y, x + 1)
    resumed = data.Reader(ids, longest=16, cursor=4)
    assert torch.equal(resumed.batch(4 * 16, context=16)[0], x.view(8, 16)[4:])


def test_repeated_rows_are_copies() -> None:
    x = torch.arange(4 * 64).view(4, 64)
    new_x, new_y = data.repeat_some(x, x + 1, 0.5, np.random.default_rng(0))
    assert torch.equal(new_x[2:], x[2:])
    for row in range(2):
        labelled = new_y[row] != data.IGNORED
        assert labelled.any()
        first = int(labelled.nonzero()[0])
        assert torch.equal(new_y[row, first:-1], new_x[row, first + 1 :])
        assert set(new_y[row, labelled].tolist()) <= set(new_x[row].tolist())


def test_divergences() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 7)
    kl, tv = distill.divergences(logits, logits + 2.0, 0.7)
    assert abs(float(kl)) < 1e-5
    assert abs(float(tv)) < 1e-5
    sure, other = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])
    assert float(distill.divergences(sure, other, 1.0)[1]) == pytest.approx(1.0)


def test_greedy_sampling_ignores_padding() -> None:
    torch.manual_seed(0)
    tiny = model.Llama(model.Config(vocab=64, width=32, layers=2, heads=2, ffn=64, context=64))
    torch.nn.init.normal_(tiny.lm_head.weight)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9]]
    both = generate.sample(tiny, prompts, 8, torch.zeros(2), 0, fast=False)
    for prompt, expected in zip(prompts, both, strict=True):
        assert generate.sample(tiny, [prompt], 8, torch.zeros(1), 0, fast=False)[0] == expected


def test_target_trains_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticking(monkeypatch, 100)
    (tmp_path / "tokens").mkdir()
    ids = np.tile(np.arange(32, dtype=np.uint16), 200)
    for split in ("train", "held_files", "own"):
        ids.tofile(tmp_path / "tokens" / f"{split}.bin")
    config = model.Config(vocab=32, width=32, layers=1, heads=1, ffn=32, context=16)
    plan = train_target.TargetPlan(minutes=0.02, batch=64, micro=32, log_every=1, compile=False)
    train_target.run(config, plan, tmp_path, tmp_path / "target", torch.device("cpu"))
    rows = runtime.Log(tmp_path / "target.jsonl").rows()
    assert rows[-2]["loss"] < rows[0]["loss"]
    before = len(rows)
    longer = train_target.TargetPlan(minutes=0.03, batch=64, micro=32, log_every=1, compile=False)
    train_target.run(config, longer, tmp_path, tmp_path / "target", torch.device("cpu"))
    assert runtime.Log(tmp_path / "target.jsonl").rows()[before]["step"] == rows[-1]["step"] + 1
    draft = model.Config(vocab=32, width=16, layers=1, heads=1, ffn=16, context=16)
    draft_plan = distill.DraftPlan(minutes=0.02, rows=2, own_rows=1, log_every=1, compile=False)
    distill.run(tmp_path / "target", draft, draft_plan, tmp_path, tmp_path / "draft", torch.device("cpu"))
    assert (tmp_path / "draft" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "argv",
    [["nonsense"], ["target", "--width", "100"], ["target", "--device", "cuda:99"], ["target", "--minutes", "0"]],
)
def test_user_mistakes_exit_2(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "cuda:99" in argv and torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    assert pair.main([*argv, "--work", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_missing_corpus_exits_2(tmp_path: Path) -> None:
    assert pair.main(["tokenizer", "--work", str(tmp_path)]) == 2
    assert pair.main(["card", "--work", str(tmp_path), "--out", str(tmp_path / "none")]) == 2


def test_log_forgets_what_a_restart_undid(tmp_path: Path) -> None:
    log = runtime.Log(tmp_path / "log.jsonl")
    for step, loss in ((1, 9.0), (2, 8.0), (3, 7.0), (2, 6.0), (3, 5.0)):
        log.write(step=step, loss=loss)
    assert [row["loss"] for row in log.rows()] == [9.0, 8.0, 6.0, 5.0]
