"""Two models side by side behind one gateway, each under its own name and aliases."""

import openai
import pytest


def test_two_models(release, deploy, traffic) -> None:
    first = deploy("first")
    second = deploy("second", model={"servedName": "team/second", "aliases": ["second-latest"]})
    first.wait_ready()
    second.wait_ready()
    with openai.OpenAI(base_url=release.gateway_url(), api_key="none", max_retries=0) as client:
        listed = {model.id for model in client.models.list()}
        assert {"first", "team/second"} <= listed
        with traffic("first", requests=4, streams=2) as one, traffic("second-latest", requests=4, streams=2) as other:
            reports = one.stop(), other.stop()
        assert [(report["completed"], report["failures"]) for report in reports] == [(4, []), (4, [])]
        with pytest.raises(openai.NotFoundError, match="team/second"):
            client.completions.create(model="third", prompt="Hello")
