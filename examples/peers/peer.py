"""What every peer does, in the order and by the rules of `incoder bench`; runs in the peers' own environment."""

import json
import statistics
import sys
from time import perf_counter


def ids(count, vocab):
    """Token ids without a pattern: a linear congruential generator's, the same every time."""
    state, out = 1, []
    for _ in range(count):
        state = (state * 1103515245 + 12345) % 2**31
        out.append((state >> 8) % vocab)
    return out


def timed(model, steps):
    start = perf_counter()
    for step in steps:
        model.feed(step)
    return perf_counter() - start


def repeated(once, repetitions, seconds):
    """Seconds of each run; none but the first begins once the time is up."""
    begin, times = perf_counter(), []
    while len(times) < repetitions and (not times or perf_counter() - begin < seconds):
        times.append(once())
    return times


def row(test, depth, tokens, times):
    rates = [tokens / t for t in times]
    spread = {"median": statistics.median(rates), "min": min(rates), "max": max(rates)}
    return {"test": test, "depth": depth, "tokens": tokens, "repetitions": len(times), "tokens_per_second": spread}


def best(rows):
    """Of each test the fastest row: a peer is held against us in the setting that suits it."""
    fastest = {}
    for one in sorted(rows, key=lambda one: one["tokens_per_second"]["median"]):
        fastest[one["test"], one["depth"]] = one
    return sorted(fastest.values(), key=lambda one: (one["test"] == "decode", one["depth"]))


def measure(model, job):
    """`model` has `keep(n)`, which forgets all but the first n tokens, and `feed(ids)`, one step until its logits are read."""
    seconds, vocab, prompt = job["seconds"], job["shape"]["vocab"], job["prompt"]

    def prefill():
        model.keep(0)
        return timed(model, [ids(prompt, vocab)])

    prefill()
    rows = [row("prefill", 0, prompt, repeated(prefill, job["repetitions"], seconds))]
    for depth in job["depths"]:
        fill = depth / rows[0]["tokens_per_second"]["median"]
        if fill > seconds:
            print(f"left out: decode at {depth}, {fill:.0f} s to get there (--seconds)", file=sys.stderr)
            continue
        before = max(depth, 1)
        model.keep(0)
        model.feed(ids(before, vocab))

        def decode(new):
            model.keep(before)
            return timed(model, [[one] for one in ids(new, vocab)])

        decode(2)
        new = max(1, min(job["new"], int(seconds / job["repetitions"] / decode(1))))
        rows.append(row("decode", depth, new, repeated(lambda: decode(new), job["repetitions"], seconds)))
    return rows


def main(load):
    """`load(job)` gives the model and what the table calls it."""
    job = json.loads(sys.argv[1])
    try:
        model, names = load(job)
        # `settings` makes each current in turn and gives its name.
        rows = [{**one, "setting": setting} for setting in model.settings() for one in measure(model, job)]
        print(json.dumps({**names, "rows": best(rows), "all_rows": rows}))
    except (RuntimeError, MemoryError, OSError, ImportError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
