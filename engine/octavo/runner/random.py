"""Random numbers that depend on a request's seed and a token's position, and on nothing else.

A counter-based generator: no state to keep, nothing that another request in the batch could advance, and the same few
integer operations on any device. The mixer is SplitMix64's (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, 2014).
"""

import hashlib

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def request_seed(own: int | None, engine: int, request_id: str) -> int:
    """A request's 64 bits: its own seed or, without one, the engine's together with the request's id."""
    if own is not None:
        return own % 2**64
    return int.from_bytes(hashlib.blake2b(f"{engine}/{request_id}".encode(), digest_size=8).digest(), "little")


def uniform(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each pair of a seed and a position."""
    counters = _mix(seeds) + positions.astype(np.uint64) * _GOLDEN
    return (_mix(counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x + _GOLDEN).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))
