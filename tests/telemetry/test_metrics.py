"""docs/operate.md names every metric and every option of the service, and none that does not exist."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import typer
from typer.main import get_command

from airdraft.cli.edge import edge
from airdraft.telemetry.metrics import DeviceReadings, Metrics, Readings, TextMetrics

PAGE = (Path(__file__).parents[2] / "docs" / "operate.md").read_text(encoding="utf-8")


def test_the_page_lists_the_metrics() -> None:
    edge = Metrics(lambda: Readings(*[0] * len(fields(Readings))))
    device = TextMetrics(lambda: DeviceReadings(*[0] * len(fields(DeviceReadings))))
    made = set()
    for family in (*edge.registry.collect(), *device.registry.collect()):
        if family.name.startswith("airdraft_"):
            made.add(family.name + "_total" * (family.type == "counter"))
    assert set(re.findall(r"`(airdraft_\w+)", PAGE)) == made


def test_the_page_names_only_options_that_there_are() -> None:
    app = typer.Typer()
    app.command()(edge)
    known = {name for option in get_command(app).params for name in option.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    of_others = {
        "--edge",
        "--max-tokens",
        "--seed",
        "--json",
        "--offline",
        "--stall-s",
        "--attack",
        "--page",
        "--predict",
    }
    assert named - of_others <= known
    wanted = (
        "tls-cert tls-key tokens max-connections idle-s handshake-s drain-s metrics-port metrics-host log-json "
        "log-level trace-dir trace-tokens"
    )
    assert {f"--{name}" for name in wanted.split()} <= named


def test_two_servers_share_no_counter() -> None:
    one, two = (Metrics(lambda: Readings(*[0] * len(fields(Readings)))) for _ in range(2))
    one.committed.inc(3)
    assert one.registry.get_sample_value("airdraft_tokens_committed_total") == 3
    assert two.registry.get_sample_value("airdraft_tokens_committed_total") == 0
