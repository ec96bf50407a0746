"""The command `octavo`: fast, knows its verbs by what is installed, and says in one line what is wrong."""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

from octavo_api import __version__, command
from octavo_api.errors import InvalidSetting, OctavoError


class EntryPoint:
    """A verb as a package would register it."""

    group = command.GROUP

    def __init__(self, verb: object) -> None:
        self.name, self.value, self._verb = getattr(verb, "name", "odd"), "package:verb", verb

    def load(self) -> object:
        return self._verb


def verb(name: str, run: Callable[[argparse.Namespace], int], requires: tuple[str, ...] = ()) -> command.Verb:
    return command.Verb(name, f"help of {name}", "extra", requires, lambda parser: parser.add_argument("--loud", action="store_true"), run)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(*verbs: object) -> None:
        monkeypatch.setattr(command, "entry_points", lambda group: [EntryPoint(one) for one in verbs])

    return install


def test_a_verb_runs_and_its_status_is_returned(installed) -> None:
    installed(verb("sing", lambda arguments: 7 if arguments.loud else 0))
    assert command.main(["sing", "--loud"]) == 7
    assert command.main(["sing"]) == 0


def test_an_unknown_verb_is_a_mistake_of_the_caller(installed, capsys) -> None:
    installed(verb("sing", lambda _: 0))
    with pytest.raises(SystemExit) as ended:
        command.main(["dance"])
    assert ended.value.code == 2
    assert "'dance'" in capsys.readouterr().err


def test_a_verb_without_its_extra_is_hidden_and_says_what_to_install(installed, capsys) -> None:
    installed(verb("sing", lambda _: 0), verb("fly", lambda _: 0, ("json", "wings_of_wax")))
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "fly" not in capsys.readouterr().out
    assert command.main(["fly"]) == 2
    assert capsys.readouterr().err == "octavo fly: needs wings_of_wax; install it with: pip install 'octavo[extra]'\n"


def test_errors_that_a_person_can_mend_are_one_line(installed, capsys) -> None:
    def run(_: argparse.Namespace) -> int:
        raise InvalidSetting("--pitch 9: must be at most 8")

    installed(verb("sing", run))
    assert command.main(["sing"]) == 2
    assert capsys.readouterr().err == "octavo sing: --pitch 9: must be at most 8\n"


def test_bugs_keep_their_traceback(installed) -> None:
    installed(verb("sing", lambda _: 1 // 0))
    with pytest.raises(ZeroDivisionError):
        command.main(["sing"])


def test_ctrl_c_is_no_traceback(installed) -> None:
    def run(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    installed(verb("sing", run))
    assert command.main(["sing"]) == 130


def test_something_else_under_our_entry_points_is_refused_by_name(installed) -> None:
    installed(object())
    with pytest.raises(OctavoError, match=r"'package:verb' of group 'octavo.verbs' is not a Verb"):
        command.main(["odd"])


def test_the_real_verbs() -> None:
    done = subprocess.run([sys.executable, "-m", "octavo_api.command"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, "importing the module runs nothing"
    assert set(command.verbs()) == {"gateway", "operator", "serve", "up"}


def test_version(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"octavo {__version__}\n"


HELP = """
from octavo_api.command import main
try:
    main(["--help"])
except SystemExit:
    pass
"""


@pytest.mark.parametrize("work", ["import octavo", "import octavo_api.resource", HELP], ids=["octavo", "octavo_api", "help"])
def test_fast_and_without_torch(work: str) -> None:
    """What every start pays, in CPU time, because the machine may have other things to do; the best of three counts."""
    check = "\nimport sys\nassert not {'torch', 'numpy', 'fastapi', 'kopf', 'kubernetes'} & set(sys.modules), sorted(sys.modules)"

    def seconds(program: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds(work + check) for _ in range(3)) < 0.3
