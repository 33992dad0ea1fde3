"""A chat that remembers, in ten lines after its imports: drafted here, and verified at the edge that is named."""

import sys

import airdraft
from airdraft.api.template import ChatTemplate
from airdraft.models.files.folder import shipped

template, messages = ChatTemplate.of(shipped("chat-draft")), []
with airdraft.Client(sys.argv[1]) as client:
    for question in sys.stdin:
        messages.append({"role": "user", "content": question.strip()})
        prompt = template.encode(template.render(messages, {"add_generation_prompt": True}))
        messages.append({"role": "assistant", "content": ""})
        for piece in client.stream(prompt, temperature=0.7, seed=1, max_tokens=64):
            print(piece, end="", flush=True)
            messages[-1]["content"] += piece
        print()
