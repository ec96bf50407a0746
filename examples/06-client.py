"""Ask a model through the gateway with the official client: python examples/06-client.py [QUESTION]

The endpoint is that of `octavo up`, or OPENAI_BASE_URL; the model is the first one that is listed, or OPENAI_MODEL.
"""

import os
import sys

import openai


def main() -> None:
    question = " ".join(sys.argv[1:]) or "In one sentence: what does Kubernetes do?"
    with openai.OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key=os.environ.get("OPENAI_API_KEY", "none")) as client:
        model = os.environ.get("OPENAI_MODEL") or next(iter(client.models.list())).id
        stream = client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}], stream=True)
        for chunk in stream:
            for choice in chunk.choices:
                sys.stdout.write(choice.delta.content or "")
                sys.stdout.flush()
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
