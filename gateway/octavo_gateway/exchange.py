"""One request's way: choose a replica, send, hand the response through; try another one while nothing was answered.

Every exchange ends in exactly one of: a whole response, an error in the gateway's name, a stream that ends with
an error event, a connection cut off because nothing truthful could be said on it any more, or a client that left.
"""

import asyncio
import logging
from typing import Protocol

from octavo_gateway.answers import Answer, Refusal, error_event, refused
from octavo_gateway.fleet import Fleet, Replica, ServedModel
from octavo_gateway.framing import Framing, UntilClose
from octavo_gateway.heads import RequestHead, ResponseHead, forwarded_request, forwarded_response
from octavo_gateway.metrics import Metrics
from octavo_gateway.request import Fields, Request
from octavo_gateway.routing import choose, estimate_tokens
from octavo_gateway.upstream import UpstreamConnection

logger = logging.getLogger(__name__)

CLIENT_LEFT = 499
CUT = 502
"""Codes that only the metrics know: the client hung up; the response was cut short by its replica."""


class Client(Protocol):
    """The other end, as an exchange needs it. One of `answer`, `finish` and `cut` ends the exchange."""

    @property
    def must_close(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    def answer(self, head: RequestHead, answer: Answer) -> None: ...
    def finish(self, *, keep_alive: bool) -> None: ...
    def cut(self) -> None:
        """Nothing truthful can follow what was written: the connection ends here."""
        ...

    def release_body(self) -> None:
        """The request's body will not be sent again."""
        ...


class Exchange:
    """A `Receiver` of its replica's response and, while it has no replica, a `Waiting`."""

    _replica: Replica | None = None
    _connection: UpstreamConnection | None = None
    _connecting: asyncio.Task[None] | None = None
    _tried: frozenset[Replica] = frozenset()
    _deaths = 0
    _forgave_stale = False
    _response: ResponseHead | None = None
    _framing: Framing = UntilClose()
    _unsent_head = b""
    _keep_alive = False
    held_until = 0.0
    unchunk = False

    def __init__(self, fleet: Fleet, metrics: Metrics, client: Client, request: Request, served: ServedModel, fields: Fields) -> None:
        self._fleet = fleet
        self._client = client
        self._request = request
        self._served = served
        self._metrics = metrics.of(served.model.name)
        self._tokens = estimate_tokens(len(request.body), fields.answer_tokens, fields.choices)
        self._begun = asyncio.get_running_loop().time()
        self.method = request.head.method
        served.open_requests += 1

    # The way to a replica

    def dispatch(self) -> None:
        replica = choose(self._served.replicas.values(), self._tried, self._fleet.deadlines.now)
        if replica is None:
            self._wait()
            return
        self._replica = replica
        replica.outstanding_tokens += self._tokens
        replica.last_dispatch = self._fleet.next_dispatch()
        connection = replica.upstream.take()
        if connection is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(replica))
        else:
            self._send(connection)

    async def _connect(self, replica: Replica) -> None:
        try:
            connection = await replica.upstream.connect()
        except OSError as error:
            self._give_up(replica, f"cannot be connected to ({error or 'timed out'})")
            self.dispatch()
        else:
            self._send(connection)

    def _send(self, connection: UpstreamConnection) -> None:
        self._connection, self._connecting = connection, None
        connection.send(self, forwarded_request(self._request.head, len(self._request.body)), self._request.body)

    def _give_up(self, replica: Replica, reason: str) -> None:
        """This replica is not asked again while another one is there."""
        self._detach()
        self._metrics.retries.inc()
        self._tried |= {replica}
        now = self._fleet.deadlines.now
        level = logging.DEBUG if replica.avoided_until > now else logging.WARNING
        replica.avoided_until = now + self._fleet.settings.ejection_time
        logger.log(level, "request %s: replica %s of %s %s; looking for another", self._request.head.request_id, replica.name, self._served.model.name, reason)

    def _detach(self) -> None:
        if self._replica is not None:
            self._replica.outstanding_tokens -= self._tokens
        self._replica = self._connection = self._connecting = None

    # Waiting for one

    def _wait(self) -> None:
        model, now = self._served.model, self._fleet.deadlines.now
        self.held_until = self.held_until or now + model.hold_max_wait
        self._tried = frozenset()
        if self.held_until <= now:
            self.waited_in_vain()
        elif not self._served.hold.add(self, model.hold_max_requests):
            waiting = f"{model.hold_max_requests} requests are waiting already" if model.hold_max_requests else "none may wait"
            self._refuse(429, f"model {model.name!r} has no ready replica and {waiting}; try again later", "model_not_ready")

    def waited_in_vain(self) -> None:
        waited = self._served.model.hold_max_wait
        self._refuse(503, f"model {self._served.model.name!r} has no ready replica, and none became ready within {waited:g} s", "model_not_ready")

    def forgotten(self) -> None:
        self._refuse(404, f"model {self._served.model.name!r} was deleted", "model_not_found")

    def _refuse(self, status: int, message: str, code: str) -> None:
        refusal = Refusal(status, message, code=code, retry_after=self._fleet.settings.retry_after if status in (429, 503) else 0)
        self._close(status)
        self._client.answer(self._request.head, refused(refusal, self._request.head.request_id))

    # The response

    def respond(self, head: ResponseHead, framing: Framing) -> None:
        if head.status == 503 and self._replica is not None and self._connection is not None:
            self._connection.drop()
            self._give_up(self._replica, "takes no requests (503)")
            self.dispatch()
            return
        self._metrics.first_byte.observe(asyncio.get_running_loop().time() - self._begun)
        self._response, self._framing = head, framing
        self._request.body = b""
        self._client.release_body()
        self._unsent_head = forwarded_response(head, self._request.head.request_id, self._connection_fields(head, framing))

    def _connection_fields(self, head: ResponseHead, framing: Framing) -> list[tuple[bytes, bytes]]:
        """How this client learns where the body ends, and whether its connection stays."""
        asked = self._request.head
        self.unchunk = head.chunked and asked.http_1_0
        self._keep_alive = asked.keep_alive and not (self._client.must_close or self.unchunk or framing.ends_with_connection)
        fields = []
        if head.length is not None:
            fields.append((b"content-length", b"%d" % head.length))
        elif head.chunked and not self.unchunk:
            fields.append((b"transfer-encoding", b"chunked"))
        if not self._keep_alive:
            fields.append((b"connection", b"close"))
        elif asked.http_1_0:
            fields.append((b"connection", b"keep-alive"))
        return fields

    def relay(self, data: bytes) -> None:
        if self._unsent_head:
            data, self._unsent_head = self._unsent_head + data, b""
        self._client.write(data)

    def complete(self) -> None:
        self._close(self._response.status if self._response is not None else CUT)
        self._client.finish(keep_alive=self._keep_alive)

    def lost(self, reason: str, stale: bool) -> None:
        replica = self._replica
        if replica is None:
            raise RuntimeError("a connection was lost that this exchange does not have")
        if self._response is not None:
            self._cut(self._response, f"replica {replica.name} {reason} in the middle of its response")
        elif stale and not self._forgave_stale:
            # It closed an idle connection while the request was on its way: nothing is wrong with it.
            self._forgave_stale = True
            self._detach()
            replica.upstream.drop_idle()
            self.dispatch()
        else:
            self._deaths += 1
            self._give_up(replica, reason)
            if self._deaths < self._fleet.settings.max_attempts:
                self.dispatch()
            else:
                self._refuse(503, f"{self._deaths} replicas of model {self._served.model.name!r} failed on this request without an answer", "replica_failed")

    def overdue(self) -> None:
        waited = self._fleet.settings.first_byte_timeout
        self._refuse(504, f"model {self._served.model.name!r} did not begin to answer within {waited:g} s", "timeout")

    def _cut(self, head: ResponseHead, reason: str) -> None:
        """The response cannot be completed: what the client gets must not look like a normal end."""
        request_id = self._request.head.request_id
        logger.warning("request %s: %s", request_id, reason)
        self._close(CUT)
        bare = self.unchunk or self._framing.ends_with_connection
        if head.event_stream and (bare or self._framing.between_chunks):
            self.relay(error_event(Refusal(502, reason, code="replica_failed"), request_id, chunked=not bare))
            self._client.finish(keep_alive=False)
        else:
            self._client.cut()

    # The client

    def pause(self) -> None:
        """The client takes its response more slowly than it comes."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    def client_left(self) -> None:
        """Nobody wants the answer: the replica learns it by its connection closing."""
        self._served.hold.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.drop()
        self._close(CLIENT_LEFT)

    def _close(self, code: int) -> None:
        self._detach()
        self._served.open_requests -= 1
        self._metrics.finished(code)
