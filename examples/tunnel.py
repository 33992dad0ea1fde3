"""An assistant that survives a tunnel: while no edge answers it shows what the draft alone would say, and corrects it.

`python tunnel.py ws://127.0.0.1:8571`; stop the edge in the middle of the text, and start it again.
"""

import asyncio
import sys

import airdraft
from airdraft.client import Committed, Corrected, Unverified


async def main(edge: str, prompt: str = "def fibonacci(n):", most: int = 400) -> None:
    """Print what is committed plainly, and what is not verified yet in quotes of its own."""
    async with airdraft.AsyncClient(edge, draft="draft", offline="draft") as client:
        words = client.tokenizer
        print(prompt, end="", flush=True)
        async for event in client.events(prompt, seed=1, max_tokens=most):
            if isinstance(event, Committed):
                print(words.decode(event.tokens), end="", flush=True)
            elif isinstance(event, Unverified) and event.tokens:
                print(f"‹{words.decode(event.tokens)}›", end="", flush=True)
            elif isinstance(event, Corrected):
                print(f"«taken back: {words.decode(event.tokens)}»", end="", flush=True)
    print()


asyncio.run(main(*sys.argv[1:2]))
