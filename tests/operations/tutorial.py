"""Prints the commands of a tutorial's blocks, one after the other: tutorial.py PAGE HTTP_PORT ADMIN_PORT DESK_PORT.

The ports are exchanged, because those of the page may be taken. What stands in the place of a browser is run in a shell of its own,
so that nothing after it can need what only a reader without a browser has. A page whose commands differ from those of the other language in
more than the words is an error."""

import re
import sys
from pathlib import Path

page, *ports = sys.argv[1:]


def blocks(path):
    return re.findall(r"^```sh\n(.*?)^```$", Path(path).read_text(encoding="utf-8"), re.M | re.S)


def bare(commands):
    return [re.sub(r"--subject '[^']*'", "--subject", block) for block in commands]


english, chinese = blocks("docs/tutorial.md"), blocks("docs/tutorial.zh-CN.md")
assert len(english) > 5 and bare(english) == bare(chinese), "the two tutorials have other commands"
followed = [f"(\n{block})\n" if "redirect_url" in block else block for block in blocks(page)]
assert any(block.startswith("(") for block in followed), "nothing pays"
text = "\n".join(followed)
for known, port in zip(("8080", "9090", "8600"), ports, strict=True):
    assert f":{known}" in text, known
    text = text.replace(f":{known}", f":{port}")
print(text)
