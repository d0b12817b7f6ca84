#!/usr/bin/env python3
"""Compare ways of training: a quick score of exported weights or of a checkpoint on the development set.

    python3 examples/demo-model/holes.py --development
    python3 examples/demo-model/develop.py [--weights DIR | --checkpoint FILE] [--count 200]

No text is generated: the hidden text is given, and counts as found where every token of it, and an end after
it, is the most probable one. That is what a greedy search with token healing finds, but for words that can be
spelled in several tokens, in a tenth of the time. The figures of the model card come from the engine.
"""

import argparse
import json
from pathlib import Path

import torch

from model import InCoder, Shape, load_exported
from objective import END_OF_MASK, END_OF_TEXT, sentinel
from stream import Encoder

HERE = Path(__file__).resolve().parent
LOOKBACKS = (0, 8)  # lines before the cursor's own


def cursor_line(left, lookback):
    """Where the line `lookback` lines before the last one of `left` begins."""
    at = len(left)
    for _ in range(lookback + 1):
        at = left.rfind("\n", 0, at)
        if at < 0:
            return 0
    return at + 1


class Scorer:
    def __init__(self, model, tokenizer):
        self.model, self.encoder = model.eval(), Encoder(tokenizer)
        self.id = self.encoder.tokenizer.token_to_id
        breaks = [i for token, i in self.encoder.tokenizer.get_vocab().items() if token[0] in "\u010a\u010d"]  # \n, \r
        self.mask_ends, self.line_ends = {self.id(END_OF_MASK)}, {self.id(END_OF_MASK), self.id(END_OF_TEXT), *breaks}

    def split(self, text, cursor):
        """(ids of `text`, how many of them end at or before character `cursor`)."""
        encoded = self.encoder.tokenizer.encode(text, add_special_tokens=False)
        return encoded.ids, sum(end <= cursor for _, end in encoded.offsets)

    @torch.inference_mode()
    def forced(self, prompt, ids, given, ends):
        """(found, nats a token) of the tokens ids[given:] after `prompt` and the others."""
        hidden = self.model.hidden(torch.tensor([prompt + ids]))[0, len(prompt) + given - 1 :]
        losses = (hidden @ self.model.embed_tokens.weight.T).log_softmax(-1)
        best, answer = losses.argmax(-1).tolist(), ids[given:]
        nats = -losses[range(len(answer)), answer].mean()
        return best[:-1] == answer and best[-1] in ends, float(nats)

    def score(self, hole, lookback, ends):
        """Infilling with `lookback`, or left to right where it is None."""
        left, right, answer = hole["left"], hole["right"], hole["answer"].rstrip()
        if lookback is None:
            return self.forced([2], *self.split(left + answer, len(left)), ends)
        start = cursor_line(left, lookback)
        first, second = self.id(sentinel(0)), self.id(sentinel(1))
        prompt = [2, *self.split(left[:start], 0)[0], first, *self.split(right, 0)[0], second, first]
        return self.forced(prompt, *self.split(left[start:] + answer, len(left) - start), ends)

    @torch.inference_mode()
    def nats(self, texts):
        """Nats a token over whole texts."""
        total = tokens = 0
        for text in texts:
            ids = torch.tensor([[2, *self.split(text, 0)[0]]])
            _, losses = self.model.loss(ids, torch.ones(1, ids.shape[1] - 1))
            total, tokens = total + float(losses.sum()), tokens + losses.numel()
        return total / tokens


def loaded(args):
    if not args.checkpoint:
        return load_exported(args.weights)
    state = torch.load(args.checkpoint, weights_only=False)
    model = InCoder(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=HERE / "weights")
    parser.add_argument("--checkpoint", type=Path, help="of train.py, instead of --weights")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--count", type=int, help="only the first COUNT entries of each file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    scorer = Scorer(loaded(args), HERE / "weights" / "tokenizer.json")
    entries = lambda name: [json.loads(line) for line in open(args.work / "development" / f"{name}.jsonl")][: args.count]
    for name in ("holes", "cursor", "multiline"):
        holes = entries(name)
        for lookback in (*LOOKBACKS, None):
            ends = scorer.mask_ends if name == "multiline" and lookback is not None else scorer.line_ends
            scores = [scorer.score(hole, lookback, ends) for hole in holes]
            found, nats = sum(f for f, _ in scores), sum(n for _, n in scores) / len(scores)
            label = "left to right" if lookback is None else f"infilling, look-back {lookback}"
            percent = f"{found} of {len(holes)} = {100 * found / len(holes):.1f} %"
            print(f"{name}: {label}: {percent}, {nats:.3f} nats a token", flush=True)
    print(f"texts: {scorer.nats([e['text'] for e in entries('ppl')]):.3f} nats a token")


if __name__ == "__main__":
    main()
