"""`octavo serve`'s command line: derived from the settings, each mistake answered in one line, nothing heavy imported for it."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from octavo.server.refused_flags import REFUSED
from octavo_api.settings import EngineSettings, ServerSettings, rows

OCTAVO = Path(sys.executable).parent / "octavo"


def octavo(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([OCTAVO, *words], check=False, capture_output=True, text=True, timeout=60)


@pytest.fixture
def read():
    """Reads a command line as `octavo serve` does, in this process."""
    from octavo.server.flags import add_arguments, read
    from octavo_api.command import Parser

    def run(*words: str):
        parser = Parser(prog="octavo serve")
        add_arguments(parser)
        return read(parser.parse_args(words))

    return run


def cpu_seconds(*command: str) -> float:
    """Of the faster of three runs, because a busy machine makes any one of them slow."""
    times = []
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        assert status == 0
        times.append(usage.ru_utime + usage.ru_stime)
    return min(times)


@pytest.mark.parametrize(
    "command", [(sys.executable, "-c", "import octavo"), (OCTAVO, "--help"), (OCTAVO, "serve", "--help")], ids=lambda c: " ".join(map(str, c[-2:]))
)
def test_help_and_import_are_quick(command):
    assert cpu_seconds(*command) < 0.3


def test_nothing_heavy_is_imported_for_import_and_help():
    heavy = {"torch", "fastapi", "tokenizers", "uvicorn", "yaml", "transformers"}
    script = f"import sys, octavo, octavo.server.verbs; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_setting_is_a_flag():
    told = octavo("serve", "--help").stdout
    for struct in (EngineSettings, ServerSettings):
        for row in rows(struct):
            assert row.flag in told
            assert " ".join(row.help.split()[:3]) in " ".join(told.split())


def test_values_reach_the_settings(read):
    command = read(
        "/model", "--max-model-len=2048", "--max-num-seqs", "4", "--no-enable-prefix-caching", "--dtype", "float32", "--cpu-threads=auto",
        "--served-model-name", "one", "two", "--port", "0", "--drain-timeout=2.5", "--api-key-file", "auto",
    )  # fmt: skip
    assert command.model == "/model"
    assert command.engine == EngineSettings(max_model_len=2048, max_num_seqs=4, enable_prefix_caching=False, dtype="float32")
    assert command.server == ServerSettings(served_model_name=("one", "two"), port=0, drain_timeout=2.5, api_key_file="auto")


def test_what_the_operator_writes_is_read(read):
    """The operator writes every setting that is not a default as one word; booleans as --x or --no-x."""
    words = []
    for row in rows(EngineSettings):
        value = {"integer": 16, "number": 0.5, "boolean": not row.default, "string": None}[row.schema.get("type", "string")]
        if "enum" in row.schema:
            value = row.schema["enum"][-1]
        if row.name == "kv_cache_memory_bytes":
            value = 1 << 20
        words.append((row.flag if value else row.flag.replace("--", "--no-", 1)) if isinstance(value, bool) else f"{row.flag}={value}")
    engine = read("m", *words).engine
    assert all(getattr(engine, row.name) != row.default or row.name in ("dtype", "load_format") for row in rows(EngineSettings))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["m", "--prot", "1"], "--prot: there is no such flag; did you mean --port?"),
        (["m", "--max-model", "64"], "--max-model: there is no such flag; did you mean --max-model-len?"),
        (["m", "--port", "x"], "--port: is 'x', must be a whole number of at least 0 and at most 65535"),
        (["m", "--max-model-len", "3"], "--max-model-len: is '3', must be a whole number of at least 16 and at most 16777216 or auto"),
        (["m", "--dtype", "fp16"], "--dtype: is 'fp16', must be one of auto, bfloat16, float32"),
        (["m", "--gpu-memory-utilization", "0"], "--gpu-memory-utilization: is '0', must be a number above 0 and at most 1"),
        (["m", "--port", "8001"], "--internal-port: is 8001, as is --port; choose another, or 0 for any free one"),
        (["m", "--served-model-name", "a", "a"], "--served-model-name: is 'a a', must be different names, none of them empty"),
        (["m", "n"], "n: is one argument too many; see octavo serve --help"),
        (["m", "--port"], "--port: expected one argument"),
        (["--served-model-name", "a", "m"], "MODEL: is missing; give a folder, a file or a source such as hf://org/name, before any --served-model-name"),
        (["m", "--trust-remote-code"], "--trust-remote-code: Octavo runs no code that comes with a model; leave it out"),
        (["s3://bucket/model"], "model source 's3://bucket/model': s3:// is not supported yet; use hf://, pypi://, pvc:// or a path"),
        (["m", "--api-key-file", "/nowhere"], "--api-key-file /nowhere: No such file or directory; give a readable file with one key a line"),
        (["m", "--tokenizer", "/nowhere"], "--tokenizer /nowhere: there is no such folder or file"),
        (["m", "--host", "192.0.2.1"], "--port 8000: cannot listen on 192.0.2.1"),
        (["m", "--config", "/nowhere"], "--config /nowhere: No such file or directory"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_status_2(words, told):
    done = octavo("serve", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"octavo serve: {told}")
    assert done.stderr.count("\n") == 1


def test_flags_of_vllm_are_refused_by_name():
    """Every flag that there is not says why; none of them is one that there is."""
    assert not {row.flag for struct in (EngineSettings, ServerSettings) for row in rows(struct)} & set(REFUSED)
    done = octavo("serve", "m", "-tp", "2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "one device" in done.stderr


def test_config_file_and_flags_over_it(read, tmp_path):
    config = tmp_path / "serve.yaml"
    config.write_text("model: /from/file\nmaxModelLen: 4096\nmaxNumSeqs: 8\nprefixCaching: false\nservedModelName: [a, b]\nkvCacheMemoryBytes: auto\nseed: 7\n")
    command = read("--config", str(config), "--max-num-seqs", "2")
    assert command.model == "/from/file"
    assert command.engine == EngineSettings(max_model_len=4096, max_num_seqs=2, enable_prefix_caching=False, seed=7)
    assert command.server.served_model_name == ("a", "b")
    assert read("/from/flag", "--config", str(config)).model == "/from/flag"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("model: m\nmaxModelLenght: 64", "maxModelLenght: there is no such setting; did you mean maxModelLen?"),
        ("model: m\nmax_model_len: 64", "max_model_len: there is no such setting; did you mean maxModelLen?"),
        ("model: m\nport: high", "port: is 'high', must be a whole number of at least 0 and at most 65535"),
        ("model: m\nport: '80'", "port: is '80', must be a whole number"),
        ("model: m\nprefixCaching: 1", "prefixCaching: is '1', must be true or false"),
        ("model: 3", "model: must be text"),
        ("- a", "must be a mapping of settings, such as `maxModelLen: 4096`"),
        ("a: [", "while parsing a flow"),
    ],
)
def test_mistakes_in_the_config_file(content, told, tmp_path):
    config = tmp_path / "serve.yaml"
    config.write_text(content)
    done = octavo("serve", "--config", str(config))
    assert done.returncode == 2
    assert done.stderr.startswith(f"octavo serve: --config {config}: {told}")
    assert done.stderr.count("\n") == 1


def test_settings_have_the_same_names_everywhere():
    """Flag, YAML key and keyword differ in spelling alone."""
    for struct in (EngineSettings, ServerSettings):
        by_python = [field.name for field in msgspec.structs.fields(struct)]
        assert [row.name for row in rows(struct)] == by_python
        assert [row.flag for row in rows(struct)] == ["--" + name.replace("_", "-") for name in by_python]
