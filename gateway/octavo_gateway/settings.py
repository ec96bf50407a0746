"""The one list of the gateway's settings; the flags of `octavo gateway` are derived from it.

Every limit on what a client or a replica can make the gateway hold or wait for is a number here.
Timeouts are checked every `octavo_gateway.deadlines.TICK` seconds, so they act up to that much late.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct


class GatewaySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: Annotated[str, Meta(description="address of the public listener")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="port of the public listener; 0: any free one")] = 8080
    internal_host: Annotated[str, Meta(description="address of the internal listener: metrics and probes")] = "127.0.0.1"
    internal_port: Annotated[int, Meta(ge=0, le=65_535, description="port of the internal listener; 0: any free one")] = 8081
    api_key_file: Annotated[str | None, Meta(description="file of accepted API keys, one a line; without it no key is asked for")] = None

    max_connections: Annotated[int, Meta(ge=1, le=1_000_000, description="client connections at once; more get a 503")] = 8192
    max_header_bytes: Annotated[int, Meta(ge=1024, le=1 << 20, description="largest head of a request or a response; a larger request gets a 431")] = 32_768
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30, description="largest request body; a larger one gets a 413")] = 16 << 20
    max_buffered_bytes: Annotated[int, Meta(ge=1024, le=1 << 40, description="request bodies held at once, all together; more get a 503")] = 512 << 20
    write_high_water: Annotated[int, Meta(ge=1024, le=1 << 26, description="bytes waiting for a slow client after which its replica is no longer read")] = (
        256 << 10
    )

    header_timeout: Annotated[float, Meta(gt=0, le=3600, description="seconds from a request's first byte to the end of its head; then a 408")] = 10.0
    body_timeout: Annotated[float, Meta(gt=0, le=3600, description="seconds without a byte of a body that is to come; then a 408")] = 30.0
    min_body_rate: Annotated[
        int, Meta(ge=0, le=1 << 30, description="bytes a second that a body must average once body_timeout has passed, else a 408; 0: any")
    ] = 4096
    keep_alive_timeout: Annotated[float, Meta(gt=0, le=86_400, description="seconds that a client connection may idle between requests")] = 75.0
    write_timeout: Annotated[float, Meta(gt=0, le=86_400, description="seconds that a client may take nothing of what waits for it; then it is cut off")] = 60.0

    connect_timeout: Annotated[float, Meta(gt=0, le=3600, description="seconds to connect to a replica; then another is tried")] = 2.0
    first_byte_timeout: Annotated[float, Meta(gt=0, le=86_400, description="seconds until a replica begins its response; then a 504")] = 600.0
    stream_timeout: Annotated[
        float, Meta(gt=0, le=86_400, description="seconds without a byte in the middle of a response; then its replica counts as dead")
    ] = 300.0
    upstream_keep_alive: Annotated[
        float, Meta(gt=0, le=3600, description="seconds that a connection to a replica may idle; less than the replica's own limit")
    ] = 4.0
    max_idle_upstream: Annotated[int, Meta(ge=0, le=100_000, description="idle connections kept for each replica")] = 256
    max_attempts: Annotated[int, Meta(ge=1, le=100, description="replicas that may die of one request before it gets a 503")] = 3
    ejection_time: Annotated[float, Meta(ge=0, le=3600, description="seconds that a replica is avoided after it refused a connection or a request")] = 1.0

    retry_after: Annotated[int, Meta(ge=1, le=3600, description="seconds that a 429 or 503 asks the client to wait")] = 5

    shutdown_delay: Annotated[
        float, Meta(ge=0, le=3600, description="seconds after SIGTERM in which new connections are still taken, while load balancers learn of it")
    ] = 0.0
    drain_timeout: Annotated[float, Meta(ge=0, le=86_400, description="seconds that open requests get to finish after SIGTERM and its delay")] = 300.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least severe level that is logged")] = "info"
