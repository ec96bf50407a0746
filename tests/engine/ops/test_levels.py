"""The choice of the instruction set: all that the chip has, the widest by itself, none that it lacks."""

from pathlib import Path

import pytest

from octavo import _C


def test_every_instruction_set_of_the_chip_is_there():
    flags = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0].split())
    expected = ["portable"]
    if {"avx2", "fma"} <= flags:
        expected.append("avx2")
        if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= flags:
            expected.append("avx512")
            expected += ["avx512_bf16"] if "avx512_bf16" in flags else []
    assert _C.levels() == expected
    assert _C.level() == expected[-1]


def test_one_that_the_chip_lacks_is_refused():
    with pytest.raises(ValueError, match="this chip has no level avx9000; it has portable"):
        _C.set_level("avx9000")
    assert _C.level() == _C.levels()[-1]
