"""Prompts for measurements: forty questions to a chat model, of five kinds, and beginnings for models that go on."""

from __future__ import annotations

PROMPTS: tuple[tuple[str, str], ...] = (
    ("question", "Why is the sky blue, and why is it red in the evening?"),
    ("question", "What does a battery do while it is charged?"),
    ("question", "How do bees find their way home?"),
    ("question", "What is the difference between a virus and a bacterium?"),
    ("question", "Who built the pyramids of Giza, and how long did it take?"),
    ("question", "Explain inflation to somebody who is twelve years old."),
    ("question", "Why do ships made of steel float?"),
    ("question", "What happens in the brain while we sleep?"),
    ("question", "How does a telescope make distant things look near?"),
    ("question", "What was the Silk Road, and who travelled on it?"),
    ("code", "Write a Python function that counts the vowels in a string."),
    ("code", "Write a Python function that returns the n-th Fibonacci number without recursion."),
    ("code", "Write a class for a stack in Python, with push, pop and peek."),
    ("code", "How do I read a CSV file in Python and print its second column?"),
    ("code", "Write a JavaScript function that removes duplicates from an array."),
    ("code", "Write an SQL query for the ten customers with the highest total of orders."),
    ("code", "What is wrong with this code?\n\nfor i in range(10)\n    print(i"),
    ("code", "Write a shell command that finds all files larger than ten megabytes."),
    ("list", "List five things to pack for a week in the mountains."),
    ("list", "Give me seven ideas for a birthday present under twenty euros."),
    ("list", "Name ten animals that live in the desert."),
    ("list", "List the steps of baking bread, one in each line."),
    ("list", "Give three arguments for and three against working from home."),
    ("list", "Plan three days in Rome, with mornings, afternoons and evenings."),
    ("list", "Write a shopping list for a vegetable soup for six people."),
    ("list", "What are the planets of the solar system, in order from the Sun?"),
    ("rewriting", "Make this polite: Send me the report today, I have waited long enough."),
    ("rewriting", "Rewrite in simple words: The committee postponed its talks owing to unforeseen circumstances."),
    ("rewriting", "Shorten to one sentence: We went to the station early because we feared the train might be full. "
     "It was not full at all. In the end we had a whole carriage to ourselves."),
    ("rewriting", "Correct the mistakes: She dont like the cake what her brother have made yesterday."),
    ("rewriting", "Turn this into a formal e-mail: hey, cant come tomorrow, im ill, can we meet next week?"),
    ("rewriting", "Rewrite in the past tense: The cat sits at the window and watches the birds in the garden."),
    ("rewriting", "Write this as a headline: A school in a small town has opened a library that pupils run."),
    ("small talk", "Hello! How are you today?"),
    ("small talk", "I had a long day at work. Tell me something nice."),
    ("small talk", "Do you like music?"),
    ("small talk", "Tell me a joke about computers."),
    ("small talk", "I am bored. What shall I do this afternoon?"),
    ("small talk", "My dog has learned to open the fridge. What do you say to that?"),
    ("small talk", "Good night, and thank you for your help."),
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
