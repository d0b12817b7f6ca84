"""Two files that are edited in turn: 100 requests to `incoder serve`, each one character after the last of its file.

Prints how many prompt tokens had to be computed, with one KV cache and with several. Python's standard library is all it needs.

    cargo build --release
    python3 examples/serve-load/alternate.py --incoder target/release/incoder
"""

import argparse
import json
import statistics
import subprocess
import time
import urllib.error
import urllib.request

TYPED = "return value + other * third"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--incoder", default="target/release/incoder")
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4])
    given = parser.parse_args()
    for slots in given.slots:
        run(given.incoder, given.port, slots)


def run(incoder, port, slots):
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([incoder, "serve", "--port", str(port), "--slots", str(slots), "-q"])
    try:
        until_ready(address)
        computed, times = [], []
        lines = range(60)
        heads = ["".join(f"{name}_{i} = table[{i * 7 % 91}]\n" for i in lines) + "def f():\n    " for name in "ab"]
        for request in range(50):
            for head in heads:
                body = {"input_prefix": head + TYPED[:request % len(TYPED)], "input_suffix": "\nprint(1)\n",
                        "n_predict": 4, "temperature": 0}
                begun = time.perf_counter()
                computed.append(ask(f"{address}/infill", body)["timings"]["prompt_n"])
                times.append(1e3 * (time.perf_counter() - begun))
        print(f"{slots} slots: {sum(computed)} prompt tokens computed, median {statistics.median(computed[2:]):.0f}, "
              f"{statistics.median(times[2:]):.0f} ms a request")
    finally:
        server.terminate()
        server.wait()


def until_ready(address):
    for _ in range(300):
        try:
            return urllib.request.urlopen(f"{address}/health")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise SystemExit("the server did not get ready within 30 s")


def ask(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


main()
