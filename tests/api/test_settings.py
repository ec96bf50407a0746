"""One list of settings: flags, keywords, `spec.engine`, the chart's values and the reference say the same."""

import argparse
import json
from pathlib import Path

import msgspec
import pytest

from octavo.server.verbs import serve
from octavo_api.settings import EngineSettings, ServerSettings, camel, rows
from octavo_gateway.settings import GatewaySettings
from octavo_gateway.verbs import gateway
from tools import crd, values

ROOT = Path(__file__).parents[2]


def flags(verb) -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return {option: action for action in parser._actions for option in action.option_strings}


def engine_schema() -> dict:
    return crd.schema()["properties"]["spec"]["properties"]["engine"]["properties"]


@pytest.mark.parametrize("struct", [EngineSettings, ServerSettings])
def test_every_setting_has_a_flag(struct) -> None:
    known = flags(serve)
    for row in rows(struct):
        assert row.flag in known
        assert row.help.replace("%", "%%") in known[row.flag].help
        assert known[row.flag].dest == row.name, "the keyword of LLM(...) and the flag are one word"


def test_every_flag_that_is_shown_is_a_setting() -> None:
    settings = {row.flag for struct in (EngineSettings, ServerSettings) for row in rows(struct)}
    shown = {option for option, action in flags(serve).items() if action.help != argparse.SUPPRESS and not option.startswith("--no-")}
    assert shown - settings == {"--config", "--help", "-h"}


def test_spec_engine_is_the_engine_settings() -> None:
    schema = engine_schema()
    assert list(schema) == [row.spec_name for row in rows(EngineSettings)]
    for row in rows(EngineSettings):
        field = schema[row.spec_name]
        assert field["description"] == row.help
        assert field.get("default") == row.default
        assert field.get("enum") == row.schema.get("enum")
        assert field.get("maximum") == row.schema.get("maximum")


def test_names_are_vllms_in_flags_and_camel_case_in_yaml() -> None:
    assert camel("max_num_batched_tokens") == "maxNumBatchedTokens"
    assert camel("enable_prefix_caching") == "prefixCaching"
    settings = msgspec.convert({"maxNumSeqs": 7, "prefixCaching": False}, EngineSettings)
    assert (settings.max_num_seqs, settings.enable_prefix_caching) == (7, False)
    assert msgspec.to_builtins(settings) == {"maxNumSeqs": 7, "prefixCaching": False}, "what is at its default is not said, so that defaults can change"


def test_every_default_is_valid() -> None:
    for struct in (EngineSettings, ServerSettings, GatewaySettings):
        said = {field.encode_name: getattr(struct(), field.name) for field in msgspec.structs.fields(struct)}
        assert msgspec.convert(json.loads(json.dumps(said)), struct) == struct()


def test_gateway_flags_and_the_charts_values() -> None:
    known = flags(gateway)
    chart = json.loads(values.schema())["definitions"]["Settings"]["properties"]
    for row in rows(GatewaySettings):
        assert row.flag in known
        assert (camel(row.name) in chart) != (row.name in values.OWN), f"{row.name} is either the chart's own or a value of it"


def test_the_reference_has_every_setting() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    for struct in (EngineSettings, ServerSettings, GatewaySettings):
        for row in rows(struct):
            assert f"`{row.flag}`" in page or f"`{row.flag.replace('--', '--no-', 1)}`" in page
