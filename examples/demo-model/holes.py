"""Make the held-out evaluation files from held_out.jsonl, the same ones every time.

eval/holes.jsonl      a whole random non-blank line is hidden; its line breaks stay in the contexts
eval/cursor.jsonl     from a random character inside a line to that line's end
eval/multiline.jsonl  two to six whole lines are hidden, the first and the last of them not blank
eval/ppl.jsonl        snippets for perplexity

With --development, the same four files from development.jsonl, in <work>/development.
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

from objective import filled_lines, line_table
from stream import line_cut

HERE = Path(__file__).resolve().parent
LEFT, RIGHT, SNIPPET = 1500, 700, 2000  # characters
HOLES, CURSORS, MULTILINE, SNIPPETS = 600, 300, 300, 40
LONGEST_LINE, LONGEST_BLOCK = 160, 400  # characters of a fair question


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


def line_hole(rng, text):
    """(start, end) of a line, or None where the drawn one is too long."""
    start, end = rng.choice(filled_lines(text))
    return (start, end) if end - start <= LONGEST_LINE else None


def cursor_hole(rng, text):
    """(start, end) from inside a line to its end, or None."""
    found = line_hole(rng, text)
    if not found:
        return None
    start = rng.randrange(*found)
    return (start, found[1]) if text[start : found[1]].strip() else None


def multiline_hole(rng, text):
    """(start, end) of two to six lines, or None where they are too long or begin or end with a blank one."""
    lines, count = line_table(text), rng.randint(2, 6)
    first = rng.randrange(len(lines))
    chosen = lines[first : first + count]
    start, end = chosen[0][0], chosen[-1][1]
    ends_blank = any(not text[a:b].strip() for a, b in (chosen[0], chosen[-1]))
    return None if len(chosen) < count or ends_blank or end - start > LONGEST_BLOCK else (start, end)


def holes(rng, packages, count, draw):
    """`count` different holes, drawn by `draw(rng, text)`."""
    found = {}
    for file in pick(rng, packages, 8 * count):
        span = draw(rng, file["text"])
        if not span:
            continue
        text, (start, end) = file["text"], span
        left, right = clip(text, start, end)
        answer = text[start:end]
        entry = {"package": file["package"], "path": file["path"], "left": left, "right": right, "answer": answer}
        found.setdefault((file["path"], left, answer), entry)
        if len(found) == count:
            break
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
    parser.add_argument("--development", action="store_true")
    args = parser.parse_args()
    role, folder = ("development", args.work / "development") if args.development else ("held_out", HERE / "eval")
    packages = files(args.work / f"{role}.jsonl")
    write(folder / "holes.jsonl", holes(random.Random(1), packages, HOLES, line_hole))
    write(folder / "cursor.jsonl", holes(random.Random(2), packages, CURSORS, cursor_hole))
    write(folder / "multiline.jsonl", holes(random.Random(4), packages, MULTILINE, multiline_hole))
    rng = random.Random(3)
    write(folder / "ppl.jsonl", [snippet(rng, f) for f in pick(rng, packages, SNIPPETS)])


if __name__ == "__main__":
    main()
