#!/usr/bin/env python3
"""Train a larger demo model in some minutes of one data-centre GPU, on a machine without a network.

    gpu.py pack --work DIR           # here: the corpus as .gpu/corpus.xz, at most --megabytes
    gpu.py train --seconds 360       # there: train on it; weights in pieces, config.json and a log go to $OUT
    gpu.py join FOLDER --into DIR    # here: the pieces put together and checked
    gpu.py train --rehearse          # anywhere: the same with tiny sizes for a minute, on a CPU

Worker processes mask, tokenize and pack rows; the GPU trains in bfloat16. Time, not tokens, is the budget: the
rate falls to 0 at its end. Weights are written six times, so that a run that is stopped leaves some.
"""

import argparse
import hashlib
import json
import lzma
import multiprocessing
import os
import queue
import random
import shutil
import signal
import time
import traceback
from functools import partial
from pathlib import Path

import numpy as np

from stream import Stream, stretches

HERE = Path(__file__).resolve().parent
CORPUS = HERE / ".gpu" / "corpus.xz"
PACKED_PYTHON = 0.7  # share of the characters
PIECE = 15_000_000  # bytes of a piece of the weights at most
# From this share of the time: the lengths of rows, in turns.
STAGES = ((0.0, (256, 512)), (0.15, (512,)), (0.65, (1024, 2048, 1024)))
HOLD = 0.4  # share of the time at the full rate, after which it falls to 0
CHUNK = 16_384  # tokens that a worker makes at a time
LOG_SECONDS, EXPORTS = 10, 6


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack")
    pack.add_argument("--work", type=Path, default=HERE / "work", help="train.py's work folder, for its train.jsonl")
    pack.add_argument("--megabytes", type=float, default=38)
    join = commands.add_parser("join")
    join.add_argument("folder", type=Path)
    join.add_argument("--into", type=Path, default=HERE / "weights")
    run = commands.add_parser("train")
    run.add_argument("--seconds", type=float, default=360, help="of training, after everything is ready")
    run.add_argument("--all-seconds", type=float, help="instead: of reading, compiling and training together")
    run.add_argument("--corpus", type=Path, default=CORPUS)
    run.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", HERE / "work" / "gpu")))
    run.add_argument("--width", type=int, default=320)
    run.add_argument("--layers", type=int, default=8)
    run.add_argument("--batch", type=int, default=65_536, help="tokens of a step")
    run.add_argument("--warmup", type=int, default=100, help="steps in which the rate rises")
    run.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    run.add_argument("--muon-lr", type=float, default=0.02)
    run.add_argument("--embed-lr", type=float, default=2e-3)
    run.add_argument("--adam-lr", type=float, default=5e-3)
    run.add_argument("--no-compile", action="store_true")
    run.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    if args.command == "train" and args.rehearse:
        args.seconds, args.width, args.layers, args.batch = 60, 128, 2, 4096
        args.workers, args.warmup = 2, 5
    return args


def pack(work, megabytes):
    """Write CORPUS: as many shuffled files as fit, a fixed share of them Python."""
    files = [json.loads(line) for line in open(work / "train.jsonl")]
    random.Random(1).shuffle(files)
    CORPUS.parent.mkdir(exist_ok=True)
    counts, size = {True: 0, False: 0}, 0
    groups = {kind: [f for f in files if f["path"].endswith(".py") == kind] for kind in counts}
    limit = megabytes * 1e6 - 1.5e6  # the compressor holds some back
    with open(CORPUS, "wb") as raw, lzma.open(raw, "wt", preset=9 | lzma.PRESET_EXTREME) as out:
        while raw.tell() < limit and all(groups.values()):
            python = counts[True] <= PACKED_PYTHON / (1 - PACKED_PYTHON) * counts[False]
            file = groups[python].pop()
            counts[python] += len(file["text"])
            out.write(json.dumps({"path": file["path"].rsplit("/", 1)[-1], "text": file["text"]}, ensure_ascii=False) + "\n")
    size = CORPUS.stat().st_size
    print(f"{CORPUS}: {size / 1e6:.1f} MB, characters: {counts[True]:,} of Python, {counts[False]:,} of others")


def work(index, parts, tokenizer, stage, queues):
    """A worker process: chunks of rows of the stage's lengths, the scarcest length first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stream, parent = Stream(parts, tokenizer, seed=1000 + index), os.getppid()
    while os.getppid() == parent:
        lengths = sorted(set(STAGES[stage.value][1]), key=lambda length: queues[length].qsize())
        ids, weight = stream.batch(max(1, CHUNK // lengths[0]), lengths[0])
        chunk = ids.astype(np.uint16), weight.astype(np.float16)
        while os.getppid() == parent:
            try:
                queues[lengths[0]].put(chunk, timeout=1)
                break
            except queue.Full:
                if lengths[0] not in STAGES[stage.value][1]:
                    break


class Feed:
    """Worker processes and their queues; `batch` puts chunks together until a step is full."""

    def __init__(self, count, corpus, tokenizer):
        context = multiprocessing.get_context("fork")
        self.stage = context.Value("i", 0)
        self.queues = {length: context.Queue(48) for _, lengths in STAGES for length in lengths}
        parts = stretches(corpus)
        print(f"{sum(map(len, parts)):,} stretches read", flush=True)
        for index in range(count):
            mine = tuple(part[index::count] for part in parts)
            context.Process(target=work, args=(index, mine, tokenizer, self.stage, self.queues), daemon=True).start()

    def batch(self, tokens, length):
        """ids [rows, length + 1] and weights [rows, length], about `tokens` in all."""
        made = []
        while sum(weight.size for _, weight in made) < tokens:
            made.append(self.queues[length].get(timeout=120))
        rows = max(1, tokens // length)
        ids, weight = (np.concatenate([chunk[i] for chunk in made])[:rows] for i in (0, 1))
        return ids.astype(np.int64), weight.astype(np.float32)


def rate(step, warmup, share):
    """The learning-rate factor: a short warm-up, a hold, then a straight line to 0."""
    return min(1.0, (step + 1) / warmup) * min(1.0, max(0.0, (1 - share) / (1 - HOLD)))


class Training:
    """Model, optimizers and what is written of them."""

    def __init__(self, args, feed):
        import torch  # only once the workers are forked

        import model
        from optim import Optimizers
        from start import start

        self.torch, self.args, self.feed, self.parts = torch, args, feed, model
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(1)
        torch.set_float32_matmul_precision("high")
        shape = model.Shape(
            d_model=args.width, num_layers=args.layers, attention_heads=args.width // 32, ffn_dim=4 * args.width
        )
        self.model = model.InCoder(shape)
        sample, _ = feed.batch(131_072, 256)
        start(self.model, torch.bincount(torch.from_numpy(sample).flatten(), minlength=shape.vocab_size))
        self.model.to(self.device)
        self.optimizers = Optimizers(self.model, args.muon_lr, args.embed_lr, args.adam_lr)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.step = self.tokens = 0

    def update(self, length, factor):
        """One step; its mean loss, all targets that count and those inside spans, as a tensor [2]."""
        torch = self.torch
        ids, weight = (torch.from_numpy(array) for array in self.feed.batch(self.args.batch, length))
        if self.device == "cuda":
            ids, weight = (tensor.pin_memory().to(self.device, non_blocking=True) for tensor in (ids, weight))
        with torch.autocast(self.device, torch.bfloat16):
            loss, losses = self.model.loss(ids, weight)
        loss.backward()
        self.optimizers.step(factor, clip=1.0)
        self.step += 1
        self.tokens += weight.numel()
        return torch.stack([(losses * mask).sum() / mask.sum() for mask in (weight > 0, weight > 1)]).detach()

    def warm_up(self):
        """Compile the model's parts and take steps at a rate of 0; where compiling fails, go on without."""
        rows = min(8192, self.args.batch)
        compiler = partial(self.torch.compile, dynamic=False)
        for wrap in (compiler, lambda part: part)[self.args.no_compile :]:
            self.parts.wrap_parts(self.model, rows, wrap)
            try:
                for index, (_, lengths) in enumerate(STAGES):
                    self.feed.stage.value = index
                    self.update(lengths[0], 0.0)
                break
            except Exception:
                if wrap is not compiler:
                    raise
                traceback.print_exc()
                print("compiling failed: going on without", flush=True)
                self.model.zero_grad(set_to_none=True)
        self.feed.stage.value = self.step = self.tokens = 0

    def export(self, share):
        """Write fp16 weights in pieces, and weights.json, which says what they are."""
        out = self.args.out
        out.mkdir(parents=True, exist_ok=True)
        scratch = Path(f"/tmp/incoder-export-{os.getpid()}")
        self.parts.export(self.model, scratch)
        data = (scratch / "model.safetensors").read_bytes()
        pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
        for index, piece in enumerate(pieces):
            (out / f"piece{index}.new").write_bytes(piece)
        for index in range(len(pieces)):
            (out / f"piece{index}.new").rename(out / f"model.safetensors.{index}")
        about = {"sha256": hashlib.sha256(data).hexdigest(), "pieces": len(pieces), "parameters": self.parameters}
        about |= {"step": self.step, "tokens": self.tokens, "share_of_the_time": round(share, 3)}
        (out / "weights.json").write_text(json.dumps(about) + "\n")
        shutil.copy(scratch / "config.json", out / "config.json")
        shutil.rmtree(scratch)


def train(args):
    begun = time.time()
    feed = Feed(args.workers, args.corpus, HERE / "weights" / "tokenizer.json")
    training = Training(args, feed)
    print(f"{training.parameters:,} parameters on {training.device}; prepared in {time.time() - begun:.0f} s", flush=True)
    training.warm_up()
    if args.all_seconds:
        args.seconds = args.all_seconds - (time.time() - begun)
    print(f"ready: {time.time() - begun:.0f} s; {args.seconds:.0f} s of training", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    log, stopped = open(args.out / "log.jsonl", "w"), []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.append(True))
    start = logged = exported = time.time()
    recent, last_tokens = [], 0
    while not stopped and (now := time.time()) - start < args.seconds:
        share = (now - start) / args.seconds
        index = max(i for i, (begin, _) in enumerate(STAGES) if share >= begin)
        feed.stage.value = index
        lengths = STAGES[index][1]
        recent.append(training.update(lengths[training.step % len(lengths)], rate(training.step, args.warmup, share)))
        if now - logged > LOG_SECONDS:
            text, spans = training.torch.stack(recent).mean(0).tolist()  # waits for the GPU
            now = time.time()
            entry = {"step": training.step, "tokens": training.tokens, "minutes": round((now - start) / 60, 3)}
            entry |= {"loss": round(text, 4), "span_loss": round(spans, 4)}
            entry |= {"tokens_a_second": round((training.tokens - last_tokens) / (now - logged))}
            entry |= {"chunks_waiting": {length: q.qsize() for length, q in feed.queues.items()}}
            print(json.dumps(entry), flush=True)
            print(json.dumps(entry), file=log, flush=True)
            recent, logged, last_tokens = [], now, training.tokens
        if now - exported > args.seconds / EXPORTS:
            training.export(share)
            exported = now
    training.export(min(1.0, (time.time() - start) / args.seconds))
    print(f"{training.tokens:,} tokens in {training.step} steps; exported to {args.out}", flush=True)


def join(folder, into):
    about = json.loads((folder / "weights.json").read_text())
    data = b"".join((folder / f"model.safetensors.{index}").read_bytes() for index in range(about["pieces"]))
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise SystemExit(f"{folder}: the pieces do not belong together")
    into.mkdir(parents=True, exist_ok=True)
    (into / "model.safetensors").write_bytes(data)
    shutil.copy(folder / "config.json", into / "config.json")
    if not (into / "tokenizer.json").exists():
        shutil.copy(HERE / "weights" / "tokenizer.json", into / "tokenizer.json")
    print(f"{into}: {len(data):,} bytes; {about}")


def main():
    args = arguments()
    if args.command == "pack":
        pack(args.work, args.megabytes)
    elif args.command == "join":
        join(args.folder, args.into)
    else:
        train(args)


if __name__ == "__main__":
    main()
