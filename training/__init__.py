"""Makes the pair of language models that ships in `pair/`: run `python -m training.pair --help`."""
