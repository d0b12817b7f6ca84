"""Make the held-out evaluation files from held_out.jsonl, the same ones every time.

eval/holes.jsonl   a whole random non-blank line is hidden; its line breaks stay in the contexts
eval/cursor.jsonl  from a random character inside a line to that line's end
eval/ppl.jsonl     snippets for perplexity
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

from objective import filled_lines
from stream import line_cut

HERE = Path(__file__).resolve().parent
LEFT, RIGHT, SNIPPET = 1500, 700, 2000  # characters
HOLES, CURSORS, SNIPPETS = 600, 300, 40


def files(path):
    """Held-out files by package, in a fixed order."""
    result = defaultdict(list)
    for line in open(path):
        file = json.loads(line)
        result[file["package"]].append(file)
    return dict(sorted(result.items()))


def clip(text, start, end):
    """Contexts of text[start:end], cut at line borders to at most LEFT and RIGHT characters."""
    first = max(0, start - LEFT)
    if first:
        first = text.find("\n", first, start) + 1 or first
    last = min(len(text), end + RIGHT)
    if last < len(text):
        last = text.rfind("\n", end, last) + 1 or last
    return text[first:start], text[end:last]


def pick(rng, packages, count):
    """`count` files: packages take turns, a package's file is drawn by its length."""
    names = list(packages)
    for index in range(count):
        choices = packages[names[index % len(names)]]
        yield rng.choices(choices, [len(f["text"]) for f in choices])[0]


def hole(rng, file, inside):
    """One hole, or None where the drawn line is too long to be a fair question."""
    text = file["text"]
    start, end = rng.choice(filled_lines(text))
    if end - start > 160:
        return None
    if inside:
        start = rng.randrange(start, end)
        if not text[start:end].strip():
            return None
    left, right = clip(text, start, end)
    return {"package": file["package"], "path": file["path"], "left": left, "right": right, "answer": text[start:end]}


def holes(rng, packages, count, inside):
    """`count` different holes."""
    found = {}
    for file in pick(rng, packages, 4 * count):
        made = hole(rng, file, inside)
        if made and len(found) < count:
            found.setdefault((made["path"], made["left"], made["answer"]), made)
    return list(found.values())


def snippet(rng, file):
    """About SNIPPET characters of a file, from a line's start."""
    text = file["text"]
    start = rng.randrange(max(1, len(text) - SNIPPET))
    start = text.rfind("\n", 0, start) + 1
    return {"package": file["package"], "path": file["path"], "text": text[start : line_cut(text, start, SNIPPET)]}


def write(path, entries):
    path.parent.mkdir(exist_ok=True)
    with open(path, "w") as out:
        for index, entry in enumerate(entries):
            out.write(json.dumps({"id": index, **entry}, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    packages, folder = files(parser.parse_args().work / "held_out.jsonl"), HERE / "eval"
    write(folder / "holes.jsonl", holes(random.Random(1), packages, HOLES, inside=False))
    write(folder / "cursor.jsonl", holes(random.Random(2), packages, CURSORS, inside=True))
    rng = random.Random(3)
    write(folder / "ppl.jsonl", [snippet(rng, f) for f in pick(rng, packages, SNIPPETS)])


if __name__ == "__main__":
    main()
