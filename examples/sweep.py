"""A sweep over links, in virtual time: how fast each scheme is as the round trip grows. Simulated."""

from airdraft.core.messages import SchemeSpec
from airdraft.lab.record import synthetic
from airdraft.lab.virtual.cell import auto, constant, run

AUTO = SchemeSpec("stream", race="always")
texts = synthetic(acceptance=0.8, texts=3, length=80, seed=1, vocab_size=4096)
print("RTT, ms   server   split   coupled   auto   tokens/s")
for rtt_ms in (5, 20, 50, 100, 200):
    place = constant(rtt_ms, uplink_mbps=5, draft_ms=10, verify_ms=30)
    speeds = [run(texts, place, SchemeSpec(name)) for name in ("server", "split", "coupled")]
    speeds.append(run(texts, place, AUTO, policy=auto(texts.vocab_size, AUTO)))
    assert all(each.identical for each in speeds)
    print(f"{rtt_ms:7}", *(f"{each.tokens_per_s:8.1f}" for each in speeds))
