"""Names of the Prometheus metrics, so that engine, gateway, autoscaler and dashboards agree.

Engine metrics carry the label `model_name`; gateway metrics `model`.
"""

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
