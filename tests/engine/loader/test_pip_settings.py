"""pip's configuration is read as pip reads it: pip itself is the reference."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from octavo.loader.pip_settings import DEFAULT_INDEX, read_pip_settings
from octavo_api.errors import ModelUnavailable

PIP = """
import json, sys
from pip._internal.commands import create_command
found, _ = create_command("download").parse_args(["anything"])
print(json.dumps([found.index_url, found.extra_index_urls, found.find_links, found.no_index, float(found.timeout), found.cert, found.trusted_hosts]))
"""


def of_pip(environ: dict[str, str]) -> list[object]:
    done = subprocess.run([sys.executable, "-c", PIP], env=environ, stdout=subprocess.PIPE, check=True)
    index, extra, links, no_index, timeout, cert, trusted = json.loads(done.stdout)
    return [[] if no_index else [index.rstrip("/"), *(each.rstrip("/") for each in extra)], links, timeout, cert or "", sorted(trusted)]


def ours(environ: dict[str, str]) -> list[object]:
    found = read_pip_settings(environ)
    return [list(found.indexes), list(found.find_links), found.timeout, found.cert, sorted(found.trusted_hosts)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".config/pip").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("user", "named", "variables"),
    [
        ("", None, {}),
        ("[global]\nindex-url = http://user.example/simple/\ntimeout = 7", None, {}),
        ("[global]\nindex_url = http://user.example/simple\n[download]\nindex-url = http://download.example/simple", None, {}),
        ("[install]\nindex-url = http://install.example/simple", None, {}),
        ("[global]\nindex-url = http://user.example/simple", "[global]\nindex-url = http://named.example/simple", {}),
        ("[global]\nextra-index-url =\n    http://a.example/simple\n    http://b.example/simple", None, {"PIP_TRUSTED_HOST": "a.example b.example:8080"}),
        ("[global]\nindex-url = http://user.example/simple", None, {"PIP_INDEX_URL": "http://variable.example/simple", "PIP_DEFAULT_TIMEOUT": "180"}),
        ("[global]\nindex-url = http://user.example/simple", None, {"PIP_INDEX_URL": "", "PIP_FIND_LINKS": "/a /b"}),
        ("[global]\nno-index = yes\nfind-links = /wheels", None, {}),
    ],
)
def test_it_says_what_pip_says(home: Path, user: str, named: str | None, variables: dict[str, str]) -> None:
    (home / ".config/pip/pip.conf").write_text(user)
    environ = {"HOME": str(home), "PATH": os.environ["PATH"], "XDG_CONFIG_DIRS": str(home / "nothing"), **variables}
    if named is not None:
        (home / "named.conf").write_text(named)
        environ["PIP_CONFIG_FILE"] = str(home / "named.conf")
    assert ours(environ) == of_pip(environ)


def test_no_file_is_read_when_the_configuration_is_the_null_device(home: Path) -> None:
    (home / ".config/pip/pip.conf").write_text("[global]\nindex-url = http://user.example/simple")
    assert read_pip_settings({"HOME": str(home), "PIP_CONFIG_FILE": os.devnull}).indexes == (DEFAULT_INDEX,)


@pytest.mark.parametrize("text", ["index-url = no section", "[global]\ntimeout = soon"])
def test_a_broken_file_is_named(home: Path, text: str) -> None:
    (home / ".config/pip/pip.conf").write_text(text)
    with pytest.raises(ModelUnavailable) as refused:
        read_pip_settings({"HOME": str(home)})
    assert refused.value.reason == "InvalidConfiguration"
    assert "pip.conf" in str(refused.value)
