#!/usr/bin/env python3
"""Fill one hole in every module of the running Python's standard library with `incoder infill`, and count what is refused.

    cargo build --release
    python3 examples/any-file/stdlib.py target/release/incoder            # every module, the demo model on the CPU
    python3 examples/any-file/stdlib.py target/release/incoder --count 80 # a random sample
    python3 examples/any-file/stdlib.py target/release/incoder --sizes    # seconds and memory by the size of the file

Arguments after `--` go to `incoder infill`, for instance `-- -m MODEL -d 0`.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

BATCH = 40  # files a call: the model is loaded once for all of them
SIZES = ((1_000, "1 kB"), (100_000, "100 kB"), (1_000_000, "1 MB"), (20_000_000, "20 MB"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("incoder", type=Path)
    parser.add_argument("--count", type=int, help="a random sample of so many modules (seed 1)")
    parser.add_argument("--sizes", action="store_true", help="measure by size instead")
    parser.add_argument("rest", nargs="*", default=[], help="more arguments of incoder infill")
    return parser.parse_args()


def modules():
    """Every module with text in it, and a random line of it."""
    rng = random.Random(1)
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        try:
            lines = path.read_text(encoding="utf-8").count("\n") + 1
        except UnicodeDecodeError:
            continue  # test data in other encodings: refused, and said so
        yield path, rng.randint(1, lines)


def fill(incoder, places, rest):
    """One call of `incoder infill`: exit code, the objects that it printed, and what it said on stderr."""
    command = [incoder, "infill", "--json", "-q", "-n", "8", "--temp", "0", *rest, *places]
    ran = subprocess.run(command, capture_output=True, text=True)
    return ran.returncode, [json.loads(line) for line in ran.stdout.splitlines()], ran.stderr.strip()


def library(args):
    found = list(modules())
    if args.count:
        found = random.Random(1).sample(found, args.count)
    filled = cut = refused = 0
    start = time.time()
    for at in range(0, len(found), BATCH):
        places = [f"{path}:{line}:1" for path, line in found[at : at + BATCH]]
        code, made, _ = fill(args.incoder, places, args.rest)
        if code not in (0, 5) or len(made) != len(places):
            # One refused file ends the call: which one is told file by file.
            made = []
            for place in places:
                code, alone, message = fill(args.incoder, [place], args.rest)
                made += alone
                if code not in (0, 5):
                    refused += 1
                    print(f"refused: {place}: {message}")
        filled += len(made)
        cut += sum(any(window["left_out_tokens"] for window in one["window"]) for one in made)
        print(f"{at + len(places)} of {len(found)}", file=sys.stderr)
    seconds = time.time() - start
    print(f"{len(found)} modules: {filled} filled, {cut} of them longer than the context window, {refused} refused; {seconds:.0f} s")


def sizes(args):
    print("| file | seconds | peak memory, MB | of it more than for the 1 kB file, in file sizes |\n|---|--:|--:|--:|")
    line, least = "    result = compute(value, other) + offset  # the next step\n", None
    for size, name in SIZES:
        with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
            file.write(line * (size // len(line)))
            file.flush()
            place = f"{file.name}:{size // len(line) // 2}:1"
            start, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            command = [args.incoder, "infill", "-q", "-n", "8", "--temp", "0", *args.rest, place]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            seconds, peak = time.time() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
            # The kernel's figure is the largest of all children so far, and the sizes ascend.
            least = least or peak
            assert peak >= before
            print(f"| {name} | {seconds:.2f} | {peak / 1e6:.0f} | {(peak - least) / size:.1f} |")


if __name__ == "__main__":
    options = arguments()
    sizes(options) if options.sizes else library(options)
