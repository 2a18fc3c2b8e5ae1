"""Prints what each accepted, and of which kinds it was wrong. Fails if ours is not: all authentic, no other."""

import json
import sys
from collections import Counter
from pathlib import Path

folder = Path(sys.argv[1])
cases = [json.loads(line) for line in open(folder / "corpus.jsonl", encoding="utf-8")]
names = {
    "ours": "this gateway",
    "node": "alipay-sdk 4.14.0 (Node), checkNotifySign",
    "node-v2": "alipay-sdk 4.14.0 (Node), checkNotifySignV2",
    "python": "python-alipay-sdk 3.4.0, verify",
}
answers = {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
truths = ["authentic", "forged", "not for us"]

print(f"{'accepted':<46}" + "".join(f"{truth:>16}" for truth in truths))
for name, title in names.items():
    told = Counter(case["truth"] for case, accepted in zip(cases, answers[name]) if accepted)
    total = Counter(case["truth"] for case in cases)
    print(f"{title:<46}" + "".join(f"{f'{told[truth]} of {total[truth]}':>16}" for truth in truths))
print("\n`not for us`: signed by Alipay, for another app or seller, or long ago, or no notification. An SDK's call judges the")
print("signature alone and leaves this to the merchant; his code forgets it easily.\n")
wrong = False
for name, title in names.items():
    kinds = Counter(
        (case["truth"], case["kind"])
        for case, accepted in zip(cases, answers[name])
        if accepted != (case["truth"] == "authentic")
    )
    if name == "ours":
        wrong = bool(kinds)
    print(f"{title}: " + ("right about all" if not kinds else "wrong about"))
    for (truth, kind), times in sorted(kinds.items()):
        print(f"  {truth}: {kind} ({times})")
sys.exit(1 if wrong else 0)
