"""Language models: found by name, run with a cache that rolls back, and the text that goes in and out."""
