"""Models and replicas as the gateway knows them: the catalogue, plus what it has sent where and who waits.

The catalogue says what exists. Which replica gets a request is left to `routing`, its transport to `upstream`.
"""

import logging
from typing import Protocol

from octavo_api.catalogue import Catalogue, Endpoint, EndpointState, Model
from octavo_gateway.deadlines import Deadlines
from octavo_gateway.hold import Hold
from octavo_gateway.settings import GatewaySettings
from octavo_gateway.upstream import Upstream

logger = logging.getLogger(__name__)


class Waiting(Protocol):
    """A request on hold."""

    held_until: float

    def dispatch(self) -> None:
        """There may be a replica now."""
        ...

    def waited_in_vain(self) -> None:
        """Its wait is over."""
        ...

    def forgotten(self) -> None:
        """Its model is gone."""
        ...


class Replica:
    """One replica and what the gateway has on it. A `routing.Candidate`."""

    def __init__(self, endpoint: Endpoint, settings: GatewaySettings, deadlines: Deadlines) -> None:
        self.name = endpoint.replica
        self.state: EndpointState = endpoint.state
        self.upstream = Upstream(endpoint.api, settings, deadlines)
        self.outstanding_tokens = 0
        self.avoided_until = 0.0
        self.last_dispatch = 0

    def update(self, state: EndpointState) -> None:
        if state == "ready" and self.state != "ready":
            self.avoided_until = 0.0
        self.state = state


class ServedModel:
    """One model, its replicas by name and address, and the requests that wait for one."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.replicas: dict[tuple[str, str], Replica] = {}
        self.hold: Hold[Waiting] = Hold()
        self.open_requests = 0

    def count(self, state: EndpointState) -> int:
        return sum(replica.state == state for replica in self.replicas.values())


class Fleet:
    """On the clock: each sweep it lets out those who have waited long enough, and those whose replica is back."""

    deadline = 0.0

    def __init__(self, settings: GatewaySettings, deadlines: Deadlines) -> None:
        self.settings = settings
        self.deadlines = deadlines
        self._by_name: dict[str, ServedModel] = {}
        self._dispatches = 0
        self._clashes: frozenset[str] = frozenset()
        self.models: dict[str, ServedModel] = {}
        self.catalogue: Catalogue | None = None
        deadlines.watch(self)

    def find(self, name: str) -> ServedModel | None:
        """The model that answers to `name`, be it an alias."""
        return self._by_name.get(name)

    def names(self) -> list[str]:
        """Every name that is answered to, in the catalogue's order."""
        return list(self._by_name)

    def next_dispatch(self) -> int:
        self._dispatches += 1
        return self._dispatches

    def apply(self, catalogue: Catalogue) -> None:
        """Makes the catalogue true. Of two models that claim one name, the one that comes first has it."""
        if catalogue == self.catalogue:
            return
        self.catalogue = catalogue
        before, self.models, self._by_name = self.models, {}, {}
        clashes: set[str] = set()
        for model in catalogue.models:
            if model.name in self._by_name:
                clashes.add(f"{model.namespace}/{model.deployment or model.name}: the name {model.name!r} is taken by another model, so it is not served")
                continue
            served = before.get(model.name) or ServedModel(model)
            served.model = model
            self.models[model.name] = self._by_name[model.name] = served
            for alias in model.aliases:
                if self._by_name.setdefault(alias, served) is not served:
                    clashes.add(f"{model.namespace}/{model.deployment or model.name}: the alias {alias!r} is taken by another model")
            self._update_replicas(served)
        for clash in sorted(clashes - self._clashes):
            logger.warning("%s", clash)
        self._clashes = frozenset(clashes)
        for name, served in before.items():
            if name not in self.models:
                self._remove(served)
        for served in list(self.models.values()):
            self._let_out(served)

    def _update_replicas(self, served: ServedModel) -> None:
        before, served.replicas = served.replicas, {}
        for endpoint in served.model.endpoints:
            key = (endpoint.replica, endpoint.api)
            replica = before.pop(key, None) or Replica(endpoint, self.settings, self.deadlines)
            replica.update(endpoint.state)
            served.replicas[key] = replica
        for replica in before.values():
            replica.upstream.close()

    def _remove(self, served: ServedModel) -> None:
        for replica in served.replicas.values():
            replica.state = "draining"
            replica.upstream.close()
        for waiting in served.hold.release():
            waiting.forgotten()

    def expired(self) -> None:
        for served in list(self.models.values()):
            if served.hold:
                for waiting in served.hold.overdue(self.deadlines.now):
                    waiting.waited_in_vain()
                self._let_out(served)

    def _let_out(self, served: ServedModel) -> None:
        now = self.deadlines.now
        if served.hold and any(replica.state == "ready" and replica.avoided_until <= now for replica in served.replicas.values()):
            for waiting in served.hold.release():
                waiting.dispatch()
