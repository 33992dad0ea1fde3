"""GGUF files turned into folders that the default install runs: header, tokenizer, graph, and a cache of them."""
