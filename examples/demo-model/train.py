#!/usr/bin/env python3
"""Train the demo model: from its checkpoint, from exported weights, or from nothing.

    train.py                                   # train at a constant rate until Ctrl-C, SIGTERM or --minutes
    train.py --from-weights weights            # the same where there is no checkpoint yet: start from exported weights
    train.py --decay 3000000 --weights DIR     # an export: a copy of the checkpoint, its rate falling to 0

The rate never falls in the checkpoint itself, so that any sitting can go on from it, however long the ones
before were. Weights at a constant rate are noisy: `--decay` trains a copy for so many more tokens with the
rate going down to 0, exports that copy, and leaves the checkpoint alone.

Needs requirements.txt installed, and pip and npm for the corpus. Everything but exported weights stays in --work.
"""

import argparse
import json
import shutil
import signal
import time
from dataclasses import asdict
from pathlib import Path

import torch

import corpus
import tokenizer
from model import InCoder, Shape, deepen, export, load_exported
from optim import Optimizers
from start import start
from stream import Stream, stretches

HERE = Path(__file__).resolve().parent
WARMUP_STEPS = 200
BATCH = 4096  # tokens of a step
LENGTHS = (512, 512, 512, 1024)  # of a step's rows, in turns; longer ones cost more, and are for the end
DECAY_LENGTHS = (512, 1024, 1024, 2048)
NEGATIVES = 640  # at the constant rate the head sees a part of the vocabulary, which saves a fifth of a step
COUNTED_ROWS = 640  # of 256 tokens, from which the first frequencies are taken
LOG_STEPS, CHECKPOINT_SECONDS = 20, 150


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="archives, corpus, checkpoint, log")
    parser.add_argument("--weights", type=Path, default=HERE / "weights", help="where --decay exports to")
    parser.add_argument("--from-weights", type=Path, help="exported model to start from where there is no checkpoint")
    parser.add_argument("--layers", type=int, help="deepen the --from-weights model to so many layers")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end this sitting after so long")
    parser.add_argument("--decay", type=float, help="tokens of a decay branch, which is exported")
    parser.add_argument("--rate", type=float, default=0.5, help="share of the three rates below that is held")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--embed-lr", type=float, default=2e-3)
    parser.add_argument("--adam-lr", type=float, default=5e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fp32", action="store_true", help="no bfloat16, for processors that have none")
    return parser.parse_args()


def prepare(work):
    """Fetch and clean the corpus and train the tokenizer, each only where it is missing."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "train.jsonl").exists():
        corpus.build(work)
    if not (HERE / "weights" / "tokenizer.json").exists():
        tokenizer.build(work / "train.jsonl", HERE / "weights" / "tokenizer.json")


def first_model(args, stream):
    """The model to begin with where there is no checkpoint."""
    if args.from_weights:
        model = load_exported(args.from_weights).train()
        return deepen(model, args.layers) if args.layers else model
    model = InCoder(Shape())
    sample, _ = stream.batch(COUNTED_ROWS, 256)
    start(model, torch.bincount(torch.from_numpy(sample).flatten(), minlength=model.shape.vocab_size))
    return model


class Run:
    """Model, optimizers, data and the clock; everything that a checkpoint has to restore."""

    def __init__(self, args):
        torch.manual_seed(1)
        self.args, self.path = args, args.work / "checkpoint.pt"
        self.stream = Stream(stretches(args.work / "train.jsonl"), HERE / "weights" / "tokenizer.json")
        self.step = self.tokens = 0
        self.seconds = 0.0
        self.stopped = False
        state = torch.load(self.path, weights_only=False) if self.path.exists() else None
        self.model = InCoder(Shape(**state["shape"])) if state else first_model(args, self.stream)
        kind = torch.float32 if args.fp32 else torch.bfloat16
        self.optimizers = Optimizers(self.model, args.muon_lr, args.embed_lr, args.adam_lr, kind)
        if state:
            self.restore(state)

    def stop(self, *_):
        """Signal handler: end after the step in progress."""
        self.stopped = True

    def save(self):
        state = {
            "shape": asdict(self.model.shape),
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

    def train_step(self, length, factor, negatives):
        """One update; returns the mean loss of all targets that count and of those inside spans."""
        ids, weight = (torch.from_numpy(array) for array in self.stream.batch(BATCH // length, length))
        with torch.autocast("cpu", torch.bfloat16, enabled=not self.args.fp32):
            loss, losses = self.model.loss(ids, weight, negatives)
        loss.backward()
        self.optimizers.step(factor, clip=1.0)
        self.step += 1
        self.tokens += weight.numel()
        return [float(losses[mask].mean()) for mask in (weight > 0, weight > 1)]

    def constant_step(self):
        warmth = min(1.0, (self.step + 1) / WARMUP_STEPS)
        return self.train_step(LENGTHS[self.step % len(LENGTHS)], self.args.rate * warmth, NEGATIVES)

    def decay_step(self, share):
        """`share` of the branch is done."""
        length = DECAY_LENGTHS[self.step % len(DECAY_LENGTHS)]
        return self.train_step(length, self.args.rate * (1 - share), None)


def train(run, log, take_step, finished, save):
    """Steps until `finished()`, with a log line every LOG_STEPS steps and regular calls of `save`."""
    last, saved, recent = time.time(), time.time(), []
    while not run.stopped and not finished():
        recent.append(take_step())
        now = time.time()
        run.seconds, last = run.seconds + now - last, now
        if run.step % LOG_STEPS == 0:
            text, spans = (sum(column) / len(recent) for column in zip(*recent))
            entry = {"step": run.step, "tokens": run.tokens, "minutes": round(run.seconds / 60, 2)}
            entry |= {"loss": round(text, 4), "span_loss": round(spans, 4)}
            entry |= {"epochs": [round(e, 3) for e in run.stream.epochs()]}
            with open(log, "a") as out:
                print(json.dumps(entry), file=out)
            recent = []
        if now - saved > CHECKPOINT_SECONDS:
            save()
            saved = now


def decay(run, tokens, weights):
    """Train `tokens` more with the rate falling to 0, and export; the checkpoint is not written."""
    begun = run.tokens
    log = run.args.work / f"decay-{begun}.jsonl"
    take_step = lambda: run.decay_step((run.tokens - begun) / tokens)
    train(run, log, take_step, lambda: run.tokens >= begun + tokens, lambda: None)
    export(run.model, weights)
    if not (weights / "tokenizer.json").exists():
        shutil.copy(HERE / "weights" / "tokenizer.json", weights / "tokenizer.json")


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    prepare(args.work)
    run = Run(args)
    signal.signal(signal.SIGTERM, run.stop)
    signal.signal(signal.SIGINT, run.stop)
    if args.decay:
        decay(run, args.decay, args.weights)
        done = f"exported to {args.weights}"
    else:
        end = run.seconds + 60 * args.minutes
        train(run, args.work / "log.jsonl", run.constant_step, lambda: run.seconds >= end, run.save)
        run.save()
        done = f"kept in {run.path}"
    print(f"{run.tokens} tokens in {run.step} steps and {run.seconds / 60:.0f} minutes; {done}")


if __name__ == "__main__":
    main()
