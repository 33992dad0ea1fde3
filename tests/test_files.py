"""Files that users name: read within bounds, written whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from airdraft.errors import BadParameterError
from airdraft.files import check_output, output, read_bytes

DEVICES = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "ein öder Name"
    path.write_text("old")
    path.chmod(0o640)
    with output(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_is_not_completed_leaves_no_trace(
    problem: BaseException, before: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_text(before)
    refused = BadParameterError if isinstance(problem, OSError) else KeyboardInterrupt
    with pytest.raises(refused), output(path) as file:  # noqa: PT012
        file.write(b"new")
        raise problem
    assert [each.read_text() for each in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_new_file_is_as_private_as_it_is_to_be(tmp_path: Path) -> None:
    with output(tmp_path / "file", mode=0o600):
        pass
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    with output(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


@DEVICES
def test_a_device_is_written_to_as_it_is() -> None:
    check_output(Path("/dev/null"))
    with output(Path("/dev/null")) as file:
        file.write(b"new")
    with pytest.raises(BadParameterError, match=r"/dev/full cannot be written \(No space left"):  # noqa: SIM117
        with output(Path("/dev/full")) as file:
            file.write(b"new")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


@DEVICES
def test_standard_output_by_its_name_is_not_replaced(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from airdraft.files import output
with output(Path("/dev/stdout")) as file:
    file.write(b"")
print("after")
"""
    with (tmp_path / "out").open("ab") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "after\n"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "Is a directory"),
        ("no/such", "there is no folder .*; make it"),
        ("file/such", "there is no folder .*; make it"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_place_that_takes_no_file_is_found_before(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadParameterError, match=f"cannot be written.*{says}"):
        check_output(tmp_path / name)
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


def test_a_check_changes_nothing(tmp_path: Path) -> None:
    check_output(None)
    check_output(tmp_path / "new")
    assert [*tmp_path.iterdir()] == []


@DEVICES
def test_a_file_without_an_end() -> None:
    with pytest.raises(OSError, match="it has more than"):
        read_bytes(Path("/dev/zero"))


@DEVICES
@pytest.mark.slow
def test_a_run_whose_results_fit_nowhere_prints_them(tmp_path: Path) -> None:
    """That the place is full shows only when the run is over."""
    words = [sys.executable, "-m", "airdraft", "fuzz", "--seconds", "0.1", "--json", "/dev/full"]
    ended = subprocess.run(words, capture_output=True, check=False, timeout=300, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.decode().splitlines()[-1].startswith("airdraft: /dev/full cannot be written (No space left")
    assert b'"faults": [' in ended.stdout


def test_channels_that_are_interrupted_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "mix.npz"
    path.write_bytes(b"old")
    words = [sys.executable, "-m", "airdraft", "channel", "generate", str(path), "--count", "1000000"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        while len(os.listdir(tmp_path)) < 2:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert os.listdir(tmp_path) == ["mix.npz"]
    assert path.read_bytes() == b"old"
