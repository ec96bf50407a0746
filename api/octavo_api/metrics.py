"""Names of the Prometheus metrics, so that engine, gateway, autoscaler and dashboards agree.

Engine metrics carry the label `model_name`; gateway metrics `model`.
"""

from typing import Literal, NamedTuple

REQUESTS_RUNNING = "octavo_requests_running"
REQUESTS_WAITING = "octavo_requests_waiting"
REQUESTS_FINISHED = "octavo_requests_finished_total"
PREEMPTIONS = "octavo_preemptions_total"
PROMPT_TOKENS = "octavo_prompt_tokens_total"
CACHED_PROMPT_TOKENS = "octavo_prompt_tokens_cached_total"
GENERATION_TOKENS = "octavo_generation_tokens_total"
KV_BLOCKS = "octavo_kv_blocks"
KV_BLOCKS_USED = "octavo_kv_blocks_used"
KV_SLOTS_WASTED = "octavo_kv_slots_wasted"
ENGINE_STEPS = "octavo_engine_steps_total"
TIME_TO_FIRST_TOKEN = "octavo_time_to_first_token_seconds"
TIME_PER_OUTPUT_TOKEN = "octavo_time_per_output_token_seconds"
REQUEST_LATENCY = "octavo_request_latency_seconds"

GATEWAY_REQUESTS = "octavo_gateway_requests_total"
GATEWAY_IN_FLIGHT = "octavo_gateway_requests_in_flight"
GATEWAY_HELD = "octavo_gateway_requests_held"
GATEWAY_RETRIES = "octavo_gateway_retries_total"
GATEWAY_FIRST_BYTE = "octavo_gateway_time_to_first_byte_seconds"
GATEWAY_ENDPOINTS = "octavo_gateway_endpoints"


class MetricInfo(NamedTuple):
    """What a metric means; `labels` beside those that tell the model."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


ENGINE = (
    MetricInfo(REQUESTS_RUNNING, "gauge", "requests that are computed"),
    MetricInfo(REQUESTS_WAITING, "gauge", "requests that wait for a turn"),
    MetricInfo(REQUESTS_FINISHED, "counter", "requests that ended, by how", ("finish_reason",)),
    MetricInfo(PREEMPTIONS, "counter", "times that a request lost its blocks to another one and is computed again"),
    MetricInfo(PROMPT_TOKENS, "counter", "tokens of prompts"),
    MetricInfo(CACHED_PROMPT_TOKENS, "counter", "tokens of prompts that were in the prefix cache"),
    MetricInfo(GENERATION_TOKENS, "counter", "tokens generated"),
    MetricInfo(KV_BLOCKS, "gauge", "KV cache blocks, all layer groups together"),
    MetricInfo(KV_BLOCKS_USED, "gauge", "KV cache blocks that requests hold"),
    MetricInfo(KV_SLOTS_WASTED, "gauge", "token slots of held blocks that hold no token which attention can still read"),
    MetricInfo(ENGINE_STEPS, "counter", "steps of the engine; a replica that has work and stands still is stalled"),
    MetricInfo(TIME_TO_FIRST_TOKEN, "histogram", "seconds from a request's arrival to its first token"),
    MetricInfo(TIME_PER_OUTPUT_TOKEN, "histogram", "seconds a token after the first, the mean of each request"),
    MetricInfo(REQUEST_LATENCY, "histogram", "seconds from a request's arrival to its last token"),
)
GATEWAY = (
    MetricInfo(GATEWAY_REQUESTS, "counter", "requests answered or left, by status; 499: the client left first, 502 also: cut short", ("code",)),
    MetricInfo(GATEWAY_IN_FLIGHT, "gauge", "requests on a replica"),
    MetricInfo(GATEWAY_HELD, "gauge", "requests that wait for a ready replica"),
    MetricInfo(GATEWAY_RETRIES, "counter", "times that a replica was given up for another one"),
    MetricInfo(GATEWAY_FIRST_BYTE, "histogram", "seconds from a whole request to its response's first byte"),
    MetricInfo(GATEWAY_ENDPOINTS, "gauge", "replicas by state: loading, ready or draining", ("state",)),
)
