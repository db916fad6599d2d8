"""What a test needs and lacks is a skip in words, and under --no-skips a failure wherever it could be installed."""

from __future__ import annotations

from pathlib import Path

import pytest

NEEDS = """

NEEDS.clear()
NEEDS["here"] = Need("it is here", lambda: True, ("here-package",))
NEEDS["a machine"] = Need("this is another machine", lambda: False)
"""
ABSENT = '\nNEEDS["absent"] = Need("it is absent", lambda: False, ("one-package", "another-package"), make=True)\n'
TESTS = """
import pytest

@pytest.mark.needs("here")
def test_that_runs():
    pass

@pytest.mark.needs("here", "a machine")
def test_of_another_machine():
    raise AssertionError

def test_that_skips():
    pytest.skip("some reason")
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A suite of its own, beside a conftest.py like ours with other needs."""
    pytester.makeini("[pytest]\nmarkers =\n    needs\n")
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text() + NEEDS)
    pytester.makepyfile(TESTS)
    return pytester


def lack(suite: pytest.Pytester) -> None:
    conftest = suite.path / "conftest.py"
    conftest.write_text(conftest.read_text() + ABSENT)
    suite.makepyfile(test_absent='import pytest\n\n@pytest.mark.needs("absent")\ndef test_absent():\n    pass\n')


def run(suite: pytest.Pytester, *options: str) -> pytest.RunResult:
    return suite.runpytest_subprocess(
        *["-p", "no:cacheprovider", "-p", "no:hydra_pytest", "-p", "no:kgb", "-p", "no:anyio"], *options
    )


@pytest.mark.slow
def test_all_is_skipped_in_words_and_the_last_line_says_what_adds_it(suite: pytest.Pytester) -> None:
    lack(suite)
    found = run(suite, "-ra")
    found.assert_outcomes(passed=1, skipped=2, failed=1)
    found.stdout.fnmatch_lines_random(["SKIPPED*this is another machine", "SKIPPED*it is absent"])
    assert found.outlines[-2].endswith("apt-get install another-package one-package && make everything")


def test_what_can_be_installed_must_be(suite: pytest.Pytester) -> None:
    lack(suite)
    found = run(suite, "--no-skips")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    assert "apt-get install another-package one-package && make everything" in found.stderr.str() + found.stdout.str()
    assert "test session starts" not in found.stdout.str()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [(), ("-n", "1")])
def test_a_skip_is_a_failure_unless_it_takes_another_machine(
    suite: pytest.Pytester, processes: tuple[str, ...]
) -> None:
    run(suite, "--no-skips", *processes).assert_outcomes(passed=1, skipped=1, failed=1)


@pytest.mark.slow
def test_a_test_that_looks_for_itself_may_skip_unless_none_may(suite: pytest.Pytester) -> None:
    suite.makepyfile('import pytest\n\n@pytest.mark.needs("here")\ndef test_busy():\n    pytest.skip("busy")\n')
    run(suite).assert_outcomes(skipped=1)
    run(suite, "--no-skips").assert_outcomes(failed=1)


def test_a_file_that_skips_is_a_failure_too(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_file='import pytest\n\npytest.importorskip("there_is_no_such_package")\n')
    run(suite).assert_outcomes(errors=1)
