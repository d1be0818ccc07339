"""Messages of a run go by `logging`: shown where LibMTL is registered, the caller's elsewhere."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from libmtl_recon import logs
from libmtl_recon.profiles.cache import ProfileCache

LOGGER = logging.getLogger("libmtl_recon")


@pytest.fixture(autouse=True)
def as_on_import() -> Iterator[None]:
    """The package's logger as it is before LibMTL is registered."""
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    LOGGER.handlers[:], LOGGER.propagate = [], True
    LOGGER.setLevel(logging.NOTSET)
    yield
    LOGGER.handlers[:], LOGGER.propagate = before[0], before[2]
    LOGGER.setLevel(before[1])


def say() -> None:
    log = logging.getLogger("libmtl_recon.somewhere.below")
    log.debug("of no interest")
    log.info("\tsplit %s", "conv1")
    log.warning("set %s aside", "torn.json")


def test_messages_appear_as_prints_do(capsys: pytest.CaptureFixture[str]) -> None:
    logs.show()
    logs.show()
    say()
    assert tuple(capsys.readouterr()) == ("\tsplit conv1\n", "libmtl-recon: set torn.json aside\n")


def test_each_message_goes_to_the_stream_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.show()
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    say()
    assert (out.getvalue(), err.getvalue()) == (
        "\tsplit conv1\n",
        "libmtl-recon: set torn.json aside\n",
    )
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    say()


def test_nothing_is_shown_twice(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the root logger has handlers: pytest's is one."""
    logs.show()
    say()
    assert caplog.messages == []
    assert capsys.readouterr().out.count("split") == 1


def test_a_level_of_the_users_own_holds(capsys: pytest.CaptureFixture[str]) -> None:
    LOGGER.setLevel(logging.WARNING)
    logs.show()
    say()
    assert tuple(capsys.readouterr()) == ("", "libmtl-recon: set torn.json aside\n")


def test_a_handler_of_the_users_own_stays_the_only_one(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    own = logging.StreamHandler(stream)
    own.setFormatter(logging.Formatter("%(name)s %(message)s"))
    LOGGER.addHandler(own)
    logs.show()
    say()
    assert tuple(capsys.readouterr()) == ("", "")
    assert stream.getvalue() == "libmtl_recon.somewhere.below set torn.json aside\n"
    assert LOGGER.propagate


def test_hidden_messages_go_where_the_user_sends_them(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logs.show()
    logs.hide()
    say()
    assert caplog.messages == ["\tsplit conv1", "set torn.json aside"]
    assert tuple(capsys.readouterr()) == ("", "")


def test_the_package_alone_attaches_no_handler(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "0123.json").write_text("{}")
    assert ProfileCache(tmp_path).list() == []
    assert LOGGER.handlers == []
    ((name, level, said),) = caplog.record_tuples
    assert (name, level) == ("libmtl_recon.profiles.cache", logging.WARNING)
    assert said.startswith(f"{tmp_path / '0123.json'} is not a readable conflict profile")
    assert tuple(capsys.readouterr()) == ("", "")


def test_what_a_terminal_would_obey_and_an_encoding_lacks_is_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs.show()
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", newline=""))
    logging.getLogger("libmtl_recon.x").info("task %s", "größe\x1b[2J")
    sys.stdout.flush()
    assert raw.getvalue() == rb"task gr\xf6\xdfe\x1b[2J" + b"\n"


class Full(io.StringIO):
    """A stream behind which the disk is full."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_stdout_that_fails_ends_a_run_and_a_stderr_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `print` and `output.warn` do; `logging` itself would print a traceback and go on."""
    logs.show()
    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(sys, "stderr", Full())
    log = logging.getLogger("libmtl_recon.x")
    log.warning("set aside")
    with pytest.raises(OSError, match="No space left"):
        log.info("split")
