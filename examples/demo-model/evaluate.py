#!/usr/bin/env python3
"""Score exported weights on the held-out files of eval/ with torch, greedily.

    python3 examples/demo-model/evaluate.py [--count 150]

A line counts as found when it equals the hidden one, trailing blanks aside. No token healing.
"""

import argparse
import json
import math
from pathlib import Path

import torch

from model import load_exported
from objective import END_OF_MASK, END_OF_TEXT, sentinel
from stream import Encoder

HERE = Path(__file__).resolve().parent
FILES = ("holes", "cursor", "ppl")
LONGEST = 64  # tokens generated at most


def entries(name, count):
    """The first `count` entries of eval/<name>.jsonl."""
    return [json.loads(line) for line in open(HERE / "eval" / f"{name}.jsonl")][:count]


class Scorer:
    def __init__(self, folder):
        self.model = load_exported(folder)
        self.encoder = Encoder(folder / "tokenizer.json")
        self.id = self.encoder.tokenizer.token_to_id
        self.banned = [self.id(t) for t in ("<s>", "<pad>", "<unk>", *(sentinel(i) for i in range(256)))]

    def ids(self, text):
        return self.encoder.tokenizer.encode(text, add_special_tokens=False).ids

    @torch.inference_mode()
    def greedy(self, prompt, stop_at_line_break):
        """Text generated after `prompt` up to an end marker (or a line break), and whether it ended."""
        caches = [[] for _ in self.model.layers]
        feed, made = prompt, []
        for _ in range(LONGEST):
            logits = self.model.logits(torch.tensor([feed]), caches)[0]
            logits[self.banned] = -math.inf
            token = int(logits.argmax())
            if token in (self.id(END_OF_MASK), self.id(END_OF_TEXT)):
                return self.encoder.tokenizer.decode(made), True
            made.append(token)
            text = self.encoder.tokenizer.decode(made)
            if stop_at_line_break and "\n" in text:
                return text.split("\n")[0], True
            feed = [token]
        return self.encoder.tokenizer.decode(made), False

    def infill(self, hole):
        """The published prompt for one hole, extra sentinel included."""
        left, right = self.ids(hole["left"]), self.ids(hole["right"])
        first, second = self.id(sentinel(0)), self.id(sentinel(1))
        return self.greedy([2, *left, first, *right, second, first], False)

    def left_to_right(self, hole):
        return self.greedy([2, *self.ids(hole["left"])], True)

    @torch.inference_mode()
    def perplexity(self, texts):
        """(perplexity a token, bits a character) over `texts`."""
        nats = tokens = characters = 0
        for text in texts:
            ids = torch.tensor([[2, *self.ids(text)]])
            _, losses = self.model.loss(ids, torch.ones(1, ids.shape[1] - 1))
            nats, tokens = nats + float(losses.sum()), tokens + losses.numel()
            characters += len(text)
        return math.exp(nats / tokens), nats / math.log(2) / characters


def exact(scorer, name, count, show):
    """Print exact matches of both prompts over eval/<name>.jsonl."""
    infilled = first_line = left_to_right = unfinished = 0
    holes = entries(name, count)
    for index, hole in enumerate(holes):
        answer = hole["answer"].rstrip()
        (text, ended), (line, _) = scorer.infill(hole), scorer.left_to_right(hole)
        infilled += text.rstrip() == answer
        first_line += text.split("\n")[0].rstrip() == answer
        left_to_right += line.rstrip() == answer
        unfinished += not ended
        if index < show:
            print(f"  {answer!r}\n    infill {text!r}\n    left   {line!r}")
    total = len(holes)
    print(f"{name}: {total} holes")
    for label, found in (("infill", infilled), ("infill, first line", first_line), ("left to right", left_to_right)):
        print(f"  {label}: {found}/{total} = {100 * found / total:.1f} %")
    print(f"  infills without an end marker: {unfinished}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=HERE / "weights")
    parser.add_argument("--count", type=int, default=None, help="only the first COUNT entries of each file")
    parser.add_argument("--threads", type=int, default=1, help="one is fastest where other programs run too")
    parser.add_argument("--files", nargs="+", choices=FILES, default=FILES)
    parser.add_argument("--show", type=int, default=0, help="print the first SHOW answers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scorer = Scorer(args.weights)
    for name in args.files:
        if name != "ppl":
            exact(scorer, name, args.count, args.show)
    if "ppl" not in args.files:
        return
    perplexity, bits = scorer.perplexity([e["text"] for e in entries("ppl", args.count)])
    print(f"perplexity: {perplexity:.2f} a token, {bits:.3f} bits a character")


if __name__ == "__main__":
    main()
