"""Steady streaming traffic from the official openai client, every failure written down.

    traffic.py URL MODEL [--streams N] [--tokens N] [--requests N]

Each of N streams asks for exactly `--tokens` tokens, again and again, until `--requests` are done or standard input
ends; then open answers are read to their end. After each answer and at the end one JSON line on standard output: how
many were complete so far, what failed, and the longest silence in seconds. An answer counts as complete when it was
streamed as more than one chunk, and ended with a finish_reason and the expected usage; nothing is retried by the client.
"""

import argparse
import asyncio
import itertools
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

import openai


@dataclass
class Report:
    completed: int = 0
    failures: list[str] = field(default_factory=list)
    longest_silence: float = 0.0
    first_answer: str = ""


class Traffic:
    def __init__(self, client: openai.AsyncOpenAI, model: str, tokens: int, requests: int | None) -> None:
        self.client = client
        self.model = model
        self.tokens = tokens
        self.requests = itertools.count() if requests is None else iter(range(requests))
        self.report = Report()
        self.stopping = threading.Event()

    async def stream(self, number: int) -> None:
        while not self.stopping.is_set() and (request := next(self.requests, None)) is not None:
            try:
                await self.ask(f"Stream {number}, request {request}: count upwards.")
                self.tell()
            except Exception as error:  # whatever goes wrong is what this program is there to report
                self.report.failures.append(f"{time.strftime('%T')} stream {number}, request {request}: {type(error).__name__}: {error}")
                await asyncio.sleep(0.2)

    def tell(self) -> None:
        print(json.dumps(asdict(self.report)), flush=True)

    async def ask(self, question: str) -> None:
        started = time.monotonic()
        answer = await self.client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": question}],
            max_tokens=self.tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        texts, reason, usage = [], None, None
        async for chunk in answer:
            now = time.monotonic()
            self.report.longest_silence = max(self.report.longest_silence, now - started)
            started = now
            usage = chunk.usage or usage
            for choice in chunk.choices:
                reason = choice.finish_reason or reason
                texts.append(choice.delta.content or "")
        if reason != "length" or usage is None or usage.completion_tokens != self.tokens:
            tokens = usage and usage.completion_tokens
            raise ValueError(f"ended with finish_reason {reason!r} after {tokens} of {self.tokens} tokens: {''.join(texts)!r}")
        if sum(map(bool, texts)) < 2:
            raise ValueError(f"came in one piece: {texts!r}")
        self.report.completed += 1
        self.report.first_answer = self.report.first_answer or "".join(texts)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--requests", type=int)
    arguments = parser.parse_args()
    async with openai.AsyncOpenAI(base_url=arguments.url, api_key="none", max_retries=0, timeout=180) as client:
        traffic = Traffic(client, arguments.model, arguments.tokens, arguments.requests)
        if arguments.requests is None:
            threading.Thread(target=lambda: (sys.stdin.read(), traffic.stopping.set()), daemon=True).start()
        await asyncio.gather(*(traffic.stream(number) for number in range(arguments.streams)))
    traffic.tell()


if __name__ == "__main__":
    asyncio.run(main())
