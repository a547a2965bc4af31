from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from swerex.utils.log import get_logger


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from swerex.utils.log import get_logger, register_thread_name\n" + code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **env},
        timeout=60,
        check=True,
    )


def levels_shown(**env: str) -> list[str]:
    code = "log = get_logger('x')\nfor name in 'debug', 'info', 'warning', 'error': getattr(log, name)(name)"
    return [line.split()[-1] for line in run_python(code, **env).stderr.splitlines()]


def test_records_go_to_standard_error():
    result = run_python("get_logger('x').info('the message')")
    assert result.stdout == ""
    assert result.stderr.split() == ["🦖", "INFO", "the", "message"]


def test_emoji_can_be_chosen():
    assert run_python("get_logger('x', emoji='🐢').info('m')").stderr.startswith("🐢 INFO")


def test_info_is_the_default_level():
    assert levels_shown(SWE_REX_LOG_STREAM_LEVEL="") == ["info", "warning", "error"]


@pytest.mark.parametrize("level", ["WARNING", "warning", "30"])
def test_level_is_a_name_or_a_number(level):
    assert levels_shown(SWE_REX_LOG_STREAM_LEVEL=level) == ["warning", "error"]


def test_a_wrong_level_is_told_and_info_used():
    result = run_python("get_logger('x').info('shown')", SWE_REX_LOG_STREAM_LEVEL="loud")
    assert "SWE_REX_LOG_STREAM_LEVEL='loud' is no log level; INFO is used" in result.stderr
    assert "shown" in result.stderr


def test_the_main_thread_is_not_named():
    assert "MainThread" not in run_python("get_logger('x').info('m')").stderr


def test_other_threads_are_named():
    code = (
        "import threading\nthreading.Thread(target=lambda: get_logger('x').info('m'), name='worker').start()"
    )
    assert run_python(code).stderr.split()[-2:] == ["worker:", "m"]


def test_a_registered_name_is_shown_for_its_thread_only():
    code = (
        "import threading\n"
        "def work():\n"
        "    register_thread_name('task-7')\n"
        "    get_logger('x').info('m')\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start(); thread.join()\n"
        "get_logger('x').info('main')\n"
    )
    first, second = run_python(code).stderr.splitlines()
    assert first.split()[-2:] == ["task-7:", "m"]
    assert second.split() == ["🦖", "INFO", "main"]


def test_markup_in_a_message_is_printed_as_it_is():
    assert "[red]m[/red]" in run_python("get_logger('x').info('[red]m[/red]')").stderr


def test_rich_is_imported_for_the_first_record_only():
    code = (
        "import sys\n"
        "log = get_logger('x'); log.debug('hidden'); print('rich' in sys.modules)\n"
        "log.info('shown'); print('rich' in sys.modules)\n"
    )
    assert run_python(code).stdout.split() == ["False", "True"]


def test_a_handler_is_installed_once():
    loggers = [get_logger("test-handler-once") for _ in range(3)]
    assert len(set(loggers)) == 1
    assert len(loggers[0].handlers) == 1


def test_the_root_logger_is_not_touched():
    before = list(logging.getLogger().handlers), logging.getLogger().level
    get_logger("test-root")
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before


def test_a_logger_that_has_a_handler_keeps_it():
    logger = logging.getLogger("test-own-handler")
    handler = logging.NullHandler()
    logger.addHandler(handler)
    assert get_logger("test-own-handler").handlers == [handler]
    assert logger.propagate


def test_a_level_that_was_set_stays():
    logging.getLogger("test-own-level").setLevel(logging.ERROR)
    assert get_logger("test-own-level").level == logging.ERROR
