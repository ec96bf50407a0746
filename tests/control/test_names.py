"""Two resources that claim one name: the older one has it, whoever looks and in whatever order they were heard of."""

import itertools
from typing import Any

import pytest

from octavo_operator.names import NameClaims
from octavo_operator.types import Key


def manifest(name: str, created: str = "2026-01-01T00:00:00Z", namespace: str = "default", **model: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": created}
    return {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "metadata": metadata, "spec": {"model": {"source": "/m"} | model}}


OLD = manifest("old", "2026-01-01T00:00:00Z", servedName="chat")
YOUNG = manifest("young", "2026-01-02T00:00:00Z", aliases=["chat"])
OTHER = manifest("other", "2025-01-01T00:00:00Z")


@pytest.mark.parametrize("order", list(itertools.permutations([OLD, YOUNG, OTHER])), ids=lambda order: "-".join(one["metadata"]["name"] for one in order))
def test_the_older_one_has_the_name(order) -> None:
    claims = NameClaims()
    for one in order:
        claims.learn(one)
    assert claims.holder(Key("default", "young")) == Key("default", "old")
    assert claims.holder(Key("default", "old")) is None
    assert claims.holder(Key("default", "other")) is None


def test_of_the_same_age_the_first_key_has_it() -> None:
    claims = NameClaims()
    for namespace in ("b", "a"):
        claims.learn(manifest("m", namespace=namespace))
    assert claims.holder(Key("b", "m")) == Key("a", "m")
    assert claims.holder(Key("a", "m")) is None


def test_whom_a_change_concerns() -> None:
    claims = NameClaims()
    assert claims.learn(OLD) == []
    assert claims.learn(YOUNG) == [Key("default", "old")]
    assert claims.learn(YOUNG) == [], "nothing is new"
    assert claims.learn(OTHER) == []
    assert claims.learn(manifest("old", servedName="talk")) == [Key("default", "young")], "it gave the name up"
    assert claims.holder(Key("default", "young")) is None
    claims.learn(OLD)
    assert claims.remove(Key("default", "old")) == [Key("default", "young")]
    assert claims.remove(Key("default", "old")) == []


def test_one_that_cannot_be_read_claims_nothing() -> None:
    claims = NameClaims()
    claims.learn(OLD)
    claims.learn(YOUNG)
    assert claims.learn(OLD | {"spec": {"replicas": "many"}}) == [Key("default", "young")]
    assert claims.holder(Key("default", "young")) is None
