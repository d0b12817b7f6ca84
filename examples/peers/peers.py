#!/usr/bin/env python3
"""incoder beside native engines: the same shape, the same adapter, one run, one table of ratios.

    python3 examples/peers/install.py                 # once
    python3 examples/peers/peers.py --shape small     # or 1B
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INSTALLED = HERE / "installed"
SHAPES = {
    "small": {"d_model": 512, "layers": 8, "heads": 8, "ffn": 2048, "vocab": 8192},
    "1B": {"d_model": 2048, "layers": 24, "heads": 32, "ffn": 8192, "vocab": 50518},
}
NEW = {"small": 32, "1B": 8}
# Cores that other work may keep busy before the table says so.
MOST_OTHERS = 0.1
# Name: script, device, dtype of the weights.
PEERS = {
    "llama-vulkan": ("peer_llama.py", "vulkan", "f16"),
    "llama-cpu": ("peer_llama.py", "cpu", "f16"),
    "torch-f32": ("peer_torch.py", "cpu", "f32"),
    "torch-bf16": ("peer_torch.py", "cpu", "bf16"),
    "torch-cuda": ("peer_torch.py", "cuda", "f16"),
}


# What llama.cpp has of as many bits; torch computes with neither.
QUANTIZED = {"q8": "q8_0", "q4": "q4_0"}


class Failed(Exception):
    """One line that says why."""


def output(command, **env):
    """What it prints; else the last line of its complaints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from error
    lines = done.stderr.strip().splitlines()
    if done.returncode:
        raise Failed(lines[-1] if lines else f"{Path(command[0]).name} ended with {done.returncode}")
    for line in lines:
        if line.startswith("left out: "):
            note(line)
    return done.stdout


def note(text):
    print(text, file=sys.stderr, flush=True)


def numbers(text):
    return [int(number) for number in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small", help="random weights of this size")
    parser.add_argument("--incoder", help="the program (left out: built with cargo)")
    parser.add_argument("-p", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("-n", type=int, help="new tokens at most (left out: 32, for 1B 8)")
    parser.add_argument("-d", type=numbers, default=[0], help="new tokens after so many others, with commas between")
    parser.add_argument("-r", type=int, default=3, help="repetitions at most, after one that does not count")
    parser.add_argument("--seconds", type=float, default=120, help="of a peer's test: fewer repetitions and tokens fit")
    cores = os.cpu_count()
    threads = sorted({cores, max(1, cores // 2)}, reverse=True)
    parser.add_argument("--threads", type=numbers, default=threads, help="that a peer tries (left out: cores, and half)")
    parser.add_argument("--device", help="of `incoder bench`: which adapter")
    parser.add_argument("--vk-index", default="0", help="the same adapter's number in Vulkan's order, for llama.cpp")
    parser.add_argument("--quantize", choices=QUANTIZED, help="weights of this type, beside llama.cpp's of as many bits")
    parser.add_argument("--cuda", action="store_true", help="also PyTorch in fp16 on the NVIDIA GPU")
    parser.add_argument("--peers", help=f"only these, with commas between: {', '.join(PEERS)}")
    parser.add_argument("-o", choices=["md", "json"], default="md", help="the table, or all of it as JSON")
    args = parser.parse_args()
    if min(args.p, args.n or 1, args.r, args.seconds, *args.threads) < 1 or min(args.d) < 0:
        parser.error("counts begin at 1, depths at 0")
    args.n = args.n or NEW[args.shape]
    possible = [name for name in PEERS if not args.quantize or name.startswith("llama")]
    args.peers = args.peers.split(",") if args.peers else [name for name in possible if name != "torch-cuda" or args.cuda]
    unknown = [name for name in args.peers if name not in possible]
    if unknown:
        parser.error(f"no such peer: {unknown[0]}")
    return args


def built():
    command = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "incoder-native"]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise Failed("cargo build failed: see above, or name a program with --incoder")
    return os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target")) + "/release/incoder"


def incoder(args):
    """One run of `incoder bench`, and its report."""
    depths = ",".join(map(str, args.d))
    command = [args.incoder, "bench", "--shape", args.shape, "-p", str(args.p), "-n", str(args.n), "-d", depths]
    command += ["-r", str(args.r), "--no-infill", "-q", "-o", "json"]
    command += ["--device", args.device] if args.device else []
    command += ["--quantize", args.quantize] if args.quantize else []
    report = json.loads(output(command))
    device = report["device"]
    run = {"engine": "incoder", "device": device["backend"], "dtype": args.quantize or "f16", "is_ours": True}
    return {**run, "rows": table.ours(report)}, device


def peer(name, args, adapter):
    script, device, dtype = PEERS[name]
    dtype = QUANTIZED.get(args.quantize, dtype)
    job = {
        "shape": SHAPES[args.shape], "prompt": args.p, "new": args.n, "depths": args.d, "repetitions": args.r,
        "seconds": args.seconds, "threads": args.threads, "device": device, "dtype": dtype, "adapter": adapter,
        "gguf": str(INSTALLED / "models" / f"gpt2-{args.shape}-{dtype}.gguf"),
    }
    python = str(INSTALLED / "venv/bin/python")
    # llama.cpp passes software adapters over, unless their number is named.
    done = output([python, str(HERE / script), json.dumps(job)], GGML_VK_VISIBLE_DEVICES=args.vk_index)
    return {**json.loads(done.splitlines()[-1]), "device": device, "dtype": dtype, "is_ours": False}


def others_seconds():
    """Seconds that processors were busy with what is not this run, since the start; None where nothing tells."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    used = os.times()
    busy = sum(int(fields[i]) for i in (1, 2, 3, 6, 7, 8)) / os.sysconf("SC_CLK_TCK")
    return busy - used.user - used.system - used.children_user - used.children_system


def main():
    args = arguments()
    if not (INSTALLED / "venv").exists():
        raise Failed("the peers are not installed: python3 examples/peers/install.py")
    args.incoder = args.incoder or built()
    began, others = time.monotonic(), others_seconds()
    note("incoder, before the peers")
    first, device = incoder(args)
    runs, failed = [first], []
    for name in args.peers:
        note(name)
        try:
            runs.append(peer(name, args, device["name"]))
        except Failed as error:
            failed.append(name)
            note(f"{name}: {error}")
    note("incoder, after the peers")
    runs.append(incoder(args)[0])
    if others is not None:
        others = (others_seconds() - others) / (time.monotonic() - began)
    runs[0]["engine"], runs[-1]["engine"] = "incoder, before", "incoder, after (÷ before)"
    table.ratios(runs)
    setting = {"shape": args.shape, "adapter": device, "machine": platform.machine(), "cores": os.cpu_count()}
    setting["cores_busy_with_others"] = others
    if args.o == "json":
        print(json.dumps({**setting, "runs": runs, "failed": failed}))
    else:
        print(f"- shape: {args.shape}, random weights; context of 2048 tokens, KV cache f16 (torch: as the weights)")
        print(f"- adapter: {device['name']} ({device['backend']}, {device['type']}, {device['driver']})")
        print(f"- {os.cpu_count()} cores ({platform.machine()}); other work kept {table.figure(others)} of them busy")
        if others is None or others > MOST_OTHERS:
            print("- **not a quiet machine, which can cost the CPU's peers several times as much as incoder: not to be quoted**")
        print(f"- medians; a ratio is the mean of our two runs by the peer's figure: above 1, incoder is faster\n")
        print(table.markdown(runs, args.p, args.d))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
