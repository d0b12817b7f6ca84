#!/usr/bin/env python3
"""Train the demo model again, from nothing or from its last checkpoint.

    python3 examples/demo-model/train.py                    # fetch, build, train for 100 minutes, export
    python3 examples/demo-model/train.py --minutes 200      # same work folder: go on from the checkpoint

Ctrl-C ends after the step in progress, with a checkpoint and an export.

Needs requirements.txt installed, pip and npm. Everything but the exported weights stays in --work.
"""

import argparse
import json
import signal
import time
from pathlib import Path

import torch

import corpus
import tokenizer
from model import InCoder, Shape, export
from objective import SPAN_WEIGHT
from optim import Optimizers
from start import start
from stream import Stream

HERE = Path(__file__).resolve().parent
WARMUP_STEPS = 40
HOLD = 0.15  # share of the budget at the full learning rate, after which it falls to 0
# From this share of the budget: rows, length, loss weight inside spans. Infilling is what the model is for: it gets the end.
STAGES = ((0.0, 8, 256, SPAN_WEIGHT), (0.35, 4, 512, SPAN_WEIGHT), (0.75, 4, 512, 8.0), (0.90, 2, 1024, 8.0))
NEGATIVES, SAMPLED_SHARE = 640, 0.6  # until this share the head sees a part of the vocabulary: it is 40 % of a step
COUNTED_ROWS = 640  # of 256 tokens, from which the first frequencies are taken
CHECKPOINT_SECONDS = 150


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="archives, corpus, checkpoint, log")
    parser.add_argument("--weights", type=Path, default=HERE / "weights", help="where the model is exported to")
    parser.add_argument("--minutes", type=float, default=100, help="training time in all, earlier sittings included")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--embed-lr", type=float, default=2e-3)
    parser.add_argument("--adam-lr", type=float, default=5e-3)
    parser.add_argument("--rows-times", type=int, default=1, help="multiply the batch (a GPU wants 8 or more)")
    return parser.parse_args()


def prepare(work, weights):
    """Fetch and clean the corpus and train the tokenizer, each only where it is missing."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "train.jsonl").exists():
        corpus.build(work)
    if not (weights / "tokenizer.json").exists():
        tokenizer.build(work / "train.jsonl", weights / "tokenizer.json")


def stage(share):
    """(rows, length, weight inside spans) of a batch when `share` of the budget is spent."""
    return next(rest for start, *rest in reversed(STAGES) if share >= start)


def rate(step, share):
    """The learning-rate factor: a short warm-up, a hold, then a straight line to 0."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * min(1.0, max(0.0, (1 - share) / (1 - HOLD)))


class Run:
    """Model, optimizers, data and the clock; everything that a checkpoint has to restore."""

    def __init__(self, args):
        torch.manual_seed(1)
        self.args, self.device = args, torch.device(args.device)
        model = InCoder(Shape())
        self.stream = Stream(args.work / "train.jsonl", args.weights / "tokenizer.json")
        self.step = self.tokens = 0
        self.seconds = 0.0
        self.stopped = False
        self.path = args.work / "checkpoint.pt"
        if not self.path.exists():
            sample, _ = self.stream.batch(COUNTED_ROWS, 256)
            start(model, torch.bincount(torch.from_numpy(sample).flatten(), minlength=model.shape.vocab_size))
        self.model = model.to(self.device)
        self.optimizers = Optimizers(self.model, args.muon_lr, args.embed_lr, args.adam_lr)
        if self.path.exists():
            self.restore(torch.load(self.path, weights_only=False, map_location=self.device))

    def stop(self, *_):
        """Signal handler: end after the step in progress."""
        self.stopped = True

    def save(self):
        state = {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "stream": self.stream.state(),
            "clock": (self.step, self.tokens, self.seconds),
        }
        torch.save(state, self.path.with_suffix(".new"))
        self.path.with_suffix(".new").rename(self.path)

    def restore(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.stream.restore(state["stream"])
        self.step, self.tokens, self.seconds = state["clock"]

    def train_step(self, share):
        """One update; returns the mean loss of all targets that count and of those inside spans."""
        rows, length, span_weight = stage(share)
        ids, weight = self.stream.batch(rows * self.args.rows_times, length)
        weight[weight > 1] = span_weight
        ids, weight = torch.from_numpy(ids).to(self.device), torch.from_numpy(weight).to(self.device)
        loss, losses = self.model.loss(ids, weight, NEGATIVES if share < SAMPLED_SHARE else None)
        loss.backward()
        self.optimizers.step(rate(self.step, share), clip=1.0)
        self.step += 1
        self.tokens += weight.numel()
        return [float(losses[mask].mean()) for mask in (weight > 0, weight > 1)]


def train(run):
    """Steps until the budget is spent, with a log line every 20 steps and regular checkpoints."""
    budget, last, saved, recent = run.args.minutes * 60, time.time(), time.time(), []
    log = open(run.args.work / "log.jsonl", "a")
    while run.seconds < budget and not run.stopped:
        recent.append(run.train_step(run.seconds / budget))
        now = time.time()
        run.seconds, last = run.seconds + now - last, now
        if run.step % 20 == 0:
            text, spans = (sum(column) / len(recent) for column in zip(*recent))
            entry = {"step": run.step, "tokens": run.tokens, "minutes": round(run.seconds / 60, 2)}
            entry |= {"loss": round(text, 4), "span_loss": round(spans, 4), "epochs": round(run.stream.epochs(), 3)}
            print(json.dumps(entry), file=log, flush=True)
            recent = []
        if now - saved > CHECKPOINT_SECONDS:
            run.save()
            saved = now


def main():
    args = arguments()
    prepare(args.work, args.weights)
    run = Run(args)
    signal.signal(signal.SIGTERM, run.stop)
    signal.signal(signal.SIGINT, run.stop)
    train(run)
    run.save()
    export(run.model, args.weights)
    print(f"{run.tokens} tokens in {run.step} steps and {run.seconds / 60:.0f} minutes; exported to {args.weights}")


if __name__ == "__main__":
    main()
