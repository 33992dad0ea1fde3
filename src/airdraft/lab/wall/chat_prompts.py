"""Prompts for measurements: forty requests to a chat model, of six kinds, and beginnings for models that go on."""

from __future__ import annotations

PROMPTS: tuple[tuple[str, str], ...] = (
    ("question", "Why is the sky blue, and why is it red in the evening?"),
    ("question", "What does a battery do while it is charged?"),
    ("question", "How do bees find their way home?"),
    ("question", "What is the difference between a virus and a bacterium?"),
    ("question", "Who built the pyramids of Giza, and how long did it take?"),
    ("code", "Write a Python function that counts the vowels in a string."),
    ("code", "Write a Python function that returns the n-th Fibonacci number without recursion."),
    ("code", "Write a class for a stack in Python, with push, pop and peek."),
    ("code", "How do I read a CSV file in Python and print its second column?"),
    ("list", "List five things to pack for a week in the mountains."),
    ("list", "Give me seven ideas for a birthday present under twenty euros."),
    ("list", "Name ten animals that live in the desert."),
    ("list", "List the steps of baking bread, one in each line."),
    ("rewriting", "Make this polite: Send me the report today, I have waited long enough."),
    ("rewriting", "Rewrite in simple words: The committee postponed its talks owing to unforeseen circumstances."),
    ("rewriting", "Shorten to one sentence: We went to the station early because we feared the train might be full. "
     "It was not full at all. In the end we had a whole carriage to ourselves."),
    ("rewriting", "Correct the mistakes: She dont like the cake what her brother have made yesterday."),
    ("small talk", "Hello! How are you today?"),
    ("small talk", "I had a long day at work. Tell me something nice."),
    ("small talk", "Do you like music?"),
    # Of the mix that the draft was made for, about topics and tasks that were held back (`training/chat_prompts.py`).
    ("question", "Compare time management and vitamins."),
    ("question", "Tell me about hash tables."),
    ("list", "Give me some tips about schools."),
    ("writing", "Write a dialogue between two people about vitamins."),
    ("small talk", "Tell me a story."),
    ("question", "Compare India and hash tables."),
    ("question", "Tell me about cybersecurity."),
    ("question", "What questions should I ask an expert on mythology?"),
    ("writing", "Write a poem about tornadoes."),
    ("code", "Implement a function in JavaScript that connects to a database and explain how it works."),
    ("question", "What do beginners get wrong about India?"),
    ("code", "Show me C++ code that checks if a string is a palindrome, with comments."),
    ("code", "Implement a function in C that checks if a string is a palindrome and explain how it works."),
    ("question", "Compare hiking and Hinduism."),
    ("question", "I want to learn about investing. Where do I start?"),
    ("question", "What are common myths about tornadoes?"),
    ("question", "Why is Hinduism important?"),
    ("list", "Make a quiz with three questions about hash tables."),
    ("code", "Show me Python code that checks if a string is a palindrome, with comments."),
    ("question", "I want to learn about tornadoes. Where do I start?"),
)  # fmt: skip

OPENINGS = (
    'def read_lines(path):\n    """Return the lines of a text file, without their newlines."""\n',
    "class Queue:\n    def __init__(self):\n        self._items = []\n\n    def push(self, item):\n",
    "import json\n\n\ndef load_config(path, default=None):\n",
    "def mean(values):\n    if not values:\n",
    "The history of the bicycle begins in",
    "Bread is made of flour, water, salt and",
    "In the morning the harbour was quiet, and",
    "There are three reasons to learn a second language. The first is",
)
"""Of code and of prose."""
