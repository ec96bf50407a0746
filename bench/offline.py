"""Measures an engine with vLLM's Python surface on the shared workloads: one JSON line each.

    python offline.py octavo MODEL_DIR single,decode,chat [key=value engine arguments]
    python offline.py vllm   MODEL_DIR single,decode,chat

Every run has fresh prompts (another seed), so the prefix cache is cold; every answer's length is checked.
Throughput is the better of two runs, `single` the median of five. Prompts are token ids, greedy, EOS ignored.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import statistics
import sys
import time

import workloads


def engine_arguments(pairs: list[str]) -> dict:
    arguments = {"load_format": "dummy", "skip_tokenizer_init": True, "gpu_memory_utilization": 0.9, "max_num_seqs": 256, "enable_prefix_caching": True}
    for pair in pairs:
        key, value = pair.split("=", 1)
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return arguments


def where(module) -> dict:
    facts = {"engine": module.__name__, "version": getattr(module, "__version__", None)}
    try:
        import torch

        facts |= {"torch": torch.__version__, "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    except ImportError:
        pass
    return facts | {"commit": os.environ.get("BENCH_COMMIT"), "date": time.strftime("%Y-%m-%d")}  # set it: a copied tree has no history


def main() -> None:
    name, model, wanted, *pairs = sys.argv[1:]
    arguments = engine_arguments(pairs)
    vocab = json.loads((pathlib.Path(model) / "config.json").read_text())["vocab_size"]
    started = time.perf_counter()
    module = importlib.import_module(name)
    llm_class = module.LLM
    imported = time.perf_counter()
    llm = llm_class(model=model, **arguments)
    ready = time.perf_counter()
    facts = where(module) | {"model": os.path.basename(os.path.normpath(model)), "args": arguments}
    print(json.dumps(dict(import_s=round(imported - started, 1), startup_s=round(ready - imported, 1), **facts)), flush=True)

    def seconds(requests: list[tuple[list[int], int]]) -> float:
        prompts = [{"prompt_token_ids": ids} for ids, _ in requests]
        parameters = [module.SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True, detokenize=False) for _, n in requests]
        started = time.perf_counter()
        outputs = llm.generate(prompts, parameters, use_tqdm=False)
        elapsed = time.perf_counter() - started
        for output, (_, n) in zip(outputs, requests, strict=True):
            if len(output.outputs[0].token_ids) != n:
                raise SystemExit(f"{len(output.outputs[0].token_ids)} tokens instead of {n}")
        return elapsed

    seconds(workloads.prompts("single", vocab, seed=99))
    for workload in wanted.split(","):
        if workload == "single":
            first, each = [], []
            for s in range(5):
                ((ids, n),) = workloads.prompts(workload, vocab, seed=100 + s)
                first.append(seconds([(ids, 1)]))
                ((ids, n),) = workloads.prompts(workload, vocab, seed=200 + s)
                each.append((seconds([(ids, n)]) - first[-1]) / (n - 1))
            row = {"ttft_ms": round(1e3 * statistics.median(first), 2), "tpot_ms": round(1e3 * statistics.median(each), 3)}
        else:
            runs = [workloads.prompts(workload, vocab, seed=10 + s) for s in range(2)]
            times = [seconds(requests) for requests in runs]
            best = min(times)
            n_in, n_out = sum(len(p) for p, _ in runs[0]), sum(n for _, n in runs[0])
            row = {
                "seconds": [round(t, 3) for t in times],
                "out_tok_s": round(n_out / best),
                "total_tok_s": round((n_in + n_out) / best),
                "req_s": round(len(runs[0]) / best, 2),
            }
        print(json.dumps(dict(model=facts["model"], workload=workload, **row)), flush=True)


if __name__ == "__main__":
    main()
