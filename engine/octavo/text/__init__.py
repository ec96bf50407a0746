"""Text to tokens and back: tokenizer, incremental detokenizer, chat templates. Without torch, as the API process is.

What a prompt's text may be, and when an answer has ended, is left to `octavo.async_llm` and the server.
"""
