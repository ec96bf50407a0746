"""From a model source to tensors: fetch, verify, read safetensors or GGUF, map names. The shape of the model is left to `octavo.models`."""
