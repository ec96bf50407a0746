"""The engine on this machine's CPU against transformers `generate`, in one run, on the same prompts.

    python -m bench.engine [MODEL_FOLDER]

Prompts are random token ids, greedy, EOS ignored; every answer's length is checked. The two take turns, three
rounds; the median counts. Transformers runs in the faster of float32 and bfloat16, each tried first.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM

from bench import models
from bench.record import Recorder
from octavo import LLM, SamplingParams

ROUNDS = 3
SINGLE = (1, 128, 128)
BATCH = (16, 64, 64)

Generate = Callable[[list[list[int]], int], None]


def prompts(count: int, length: int, vocabulary: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1000, vocabulary - 1000) for _ in range(length)] for _ in range(count)]


def with_octavo(llm: LLM) -> Generate:
    def generate(batch: list[list[int]], new: int) -> None:
        parameters = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True, detokenize=False)
        for output in llm.generate([{"prompt_token_ids": ids} for ids in batch], parameters, use_tqdm=False):
            if len(output.outputs[0].token_ids) != new:
                raise SystemExit(f"octavo gave {len(output.outputs[0].token_ids)} tokens instead of {new}: {output.error}")

    return generate


def with_transformers(folder: str, dtype: torch.dtype) -> Generate:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0

    def generate(batch: list[list[int]], new: int) -> None:
        for ids in batch:
            output = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=new, min_new_tokens=new)
            if output.shape[1] != len(ids) + new:
                raise SystemExit(f"transformers gave {output.shape[1] - len(ids)} tokens instead of {new}")

    return generate


def seconds(generate: Generate, shape: tuple[int, int, int], vocabulary: int, seed: int) -> float:
    count, length, new = shape
    batch = prompts(count, length, vocabulary, seed)
    started = time.perf_counter()
    generate(batch, new)
    return time.perf_counter() - started


def fastest_transformers(folder: str, vocabulary: int) -> tuple[str, Generate]:
    candidates = {"float32": with_transformers(folder, torch.float32), "bfloat16": with_transformers(folder, torch.bfloat16)}
    trial = (1, 32, 16)
    for generate in candidates.values():
        seconds(generate, trial, vocabulary, seed=1)
    times = {name: seconds(generate, trial, vocabulary, seed=2) for name, generate in candidates.items()}
    name = min(times, key=lambda key: times[key])
    return name, candidates[name]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = sys.argv[1] if len(sys.argv) > 1 else str(models.smollm2(scratch))
        recorder = Recorder("engine", "torch", "transformers")
        llm = LLM(model=folder)
        ours = with_octavo(llm)
        vocabulary = 49152
        dtype, theirs = fastest_transformers(folder, vocabulary)
        seconds(ours, (1, 32, 16), vocabulary, seed=3)
        for name, shape, at_once in (("single", SINGLE, 1), ("batch16", BATCH, 16)):
            count, length, new = shape
            times: dict[str, list[float]] = {"octavo": [], "transformers": []}
            for turn in range(ROUNDS):
                times["octavo"].append(seconds(ours, shape, vocabulary, seed=10 + turn))
                times["transformers"].append(seconds(theirs, shape, vocabulary, seed=10 + turn))
            rates = {who: count * new / statistics.median(taken) for who, taken in times.items()}
            recorder.row(
                workload=name,
                model="SmolLM2-135M-Instruct",
                requests=count,
                prompt_tokens=length,
                output_tokens=new,
                octavo_tok_s=round(rates["octavo"], 1),
                octavo_at_once=at_once,
                transformers_tok_s=round(rates["transformers"], 1),
                transformers_dtype=dtype,
                ratio=round(rates["octavo"] / rates["transformers"], 2),
            )
        llm.shutdown()
        recorder.save()


if __name__ == "__main__":
    main()
