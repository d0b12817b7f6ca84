"""PyTorch's XGLM in fp16 on the GPU, beside `incoder bench`: one table. See ../peers, which has more of them."""

import json
import subprocess
import sys
import time
from pathlib import Path

PEER = Path(__file__).resolve().parents[1] / "peers" / "peer_torch.py"
SMALL = {"d_model": 512, "layers": 8, "heads": 8, "ffn": 2048, "vocab": 8192}
ONE_B = {"d_model": 2048, "layers": 24, "heads": 32, "ffn": 8192, "vocab": 50518}
SIX_B = {"d_model": 4096, "layers": 32, "heads": 32, "ffn": 16384, "vocab": 50518}
# Name, shape, prompt, depths.
JOBS = [
    ("1B", ONE_B, 512, [0, 1900]),
    ("6B", SIX_B, 512, [0, 1900]),
    ("small", SMALL, 512, [0, 1900]),
    ("1B", ONE_B, 128, []),
    ("1B", ONE_B, 2048, []),
]
REHEARSAL = [("small", SMALL, 16, [0, 60])]


def main():
    rehearse = "--rehearse" in sys.argv
    try:
        import torch
        import transformers
    except ImportError as error:
        print(f"Left out: {error}.")
        return 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not rehearse:
        print(f"Left out: torch {torch.__version__} finds no CUDA device.")
        return 0
    name = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {name}, eager, one stream\n")
    print("| size | test | tokens/s | repetitions |\n| --- | --- | ---: | ---: |")
    failed = False
    for name, shape, prompt, depths in REHEARSAL if rehearse else JOBS:
        job = {
            "shape": shape, "prompt": prompt, "new": 4 if rehearse else 64, "depths": depths, "repetitions": 3, "seconds": 4,
            "threads": [2], "device": device, "dtype": "f16" if device == "cuda" else "f32",
        }
        began = time.monotonic()
        done = subprocess.run([sys.executable, str(PEER), json.dumps(job)], capture_output=True, text=True)
        if done.returncode:
            failed = True
            print(f"| {name} | failed: {(done.stderr.strip().splitlines() or ['no word why'])[-1]} | | |")
            continue
        for row in json.loads(done.stdout.splitlines()[-1])["rows"]:
            test = f"prefill {prompt}" if row["test"] == "prefill" else f"decode {row['tokens']} at {row['depth']}"
            print(f"| {name} | {test} | {row['tokens_per_second']['median']:.1f} | {row['repetitions']} |")
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
