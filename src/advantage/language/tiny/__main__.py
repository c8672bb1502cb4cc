"""The text of `tiny` as a file to train on, `python -m advantage.language.tiny lines.jsonl`; how: docs/language.md."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from advantage.language.tiny import lines


def main() -> None:
    """Writes examples of TRL's columns, three in four as a chat, the fourth as plain text."""
    parser = argparse.ArgumentParser(prog="python -m advantage.language.tiny", description=__doc__)
    parser.add_argument("out", type=Path, help="the file, .jsonl; it must not exist")
    parser.add_argument("--lines", type=int, default=160_000, help="how many examples (160,000)")
    options = parser.parse_args()
    with options.out.open("x", encoding="utf-8") as file:
        for index in range(options.lines):
            prompt, answer = lines(index)
            plain = {"prompt": prompt, "completion": answer}
            chat = {
                "prompt": [{"role": "user", "content": prompt}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            file.write(json.dumps(plain if index % 4 == 3 else chat, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
