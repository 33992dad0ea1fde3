"""A chat that remembers, in ten lines: answers are drafted here and verified at the edge that is named."""

import sys

import airdraft
from airdraft.api.template import ChatTemplate
from airdraft.models.files.folder import shipped

messages = []
with airdraft.Client(sys.argv[1]) as client:
    template = ChatTemplate.of(shipped("chat-draft"))
    for question in sys.stdin:
        messages.append({"role": "user", "content": question.strip()})
        prompt = template.encode(template.render(messages, {"add_generation_prompt": True}))
        answer = ""
        for piece in client.stream(prompt, temperature=0.7, seed=1, max_tokens=64):
            print(piece, end="", flush=True)
            answer += piece
        print()
        messages.append({"role": "assistant", "content": answer})
