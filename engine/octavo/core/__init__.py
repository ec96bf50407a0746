"""The engine's heart: which request runs when, and in which blocks its KV cache lies. No torch here, so all of it is
tested and simulated anywhere. What a step computes is left to `octavo.runner`, HTTP to `octavo.server`."""
