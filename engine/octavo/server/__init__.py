"""HTTP only: the OpenAI surface, the internal listener, errors and SSE. Tokens come from `octavo.async_llm`."""
