"""Clients that come and go: starts `incoder serve`, and asks it from many connections at once.

Half of the clients leave in the middle of an answer, and some send bodies with random bytes changed. At the end the queue must be
empty, the server's memory must not have grown since it was warm, and every answer that was waited for must be what `incoder infill`
prints. Python's standard library is all it needs.

    cargo build --release
    python3 examples/serve-load/load.py --incoder target/release/incoder --seconds 300
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

NEW_TOKENS = 16


def holes():
    """Texts before and after a hole, of different sizes."""
    for i in range(12):
        lines = "".join(f"value_{j} = table[{j * 7 % 91}] + {i}\n" for j in range(i * i))
        yield lines + f"def area_{i}(w, h):\n    return ", f"\n\n\nprint(area_{i}(2, 3))\n"


def printed(incoder, before, after):
    """What the command makes of a hole."""
    with tempfile.TemporaryDirectory() as folder:
        left, right = Path(folder, "left"), Path(folder, "right")
        left.write_text(before)
        right.write_text(after)
        command = [incoder, "infill", "--prefix-file", left, "--suffix-file", right, "--temp", "0", "-n", str(NEW_TOKENS)]
        done = subprocess.run([*command, "--json", "-d", "cpu"], capture_output=True, text=True)
        return json.loads(done.stdout)["infills"][0]["text"]


def requests(before, after):
    """One hole in every dialect: path, body, and the text in an answer."""
    n = NEW_TOKENS
    cursor = before.rfind("\n") + 1
    lines, line = before[:cursor], before[cursor:]
    openai = lambda answer: answer["choices"][0]["text"]
    return [
        ("/infill", {"input_prefix": lines, "prompt": line, "input_suffix": after, "n_predict": n}, lambda a: a["content"]),
        ("/completion", {"prompt": f"<fim_prefix>{before}<fim_suffix>{after}<fim_middle>", "n_predict": n}, lambda a: a["content"]),
        ("/v1/completions", {"prompt": before, "suffix": after, "max_tokens": n}, openai),
        ("/v1/completions", {"segments": {"prefix": before, "suffix": after}, "max_tokens": n}, openai),
        ("/v1/fim/completions", {"prompt": before, "suffix": after, "max_tokens": n}, lambda a: a["choices"][0]["message"]["content"]),
        ("/api/generate", {"prompt": before, "suffix": after, "stream": False, "options": {"num_predict": n}}, lambda a: a["response"]),
    ]


def mutated(body):
    body = bytearray(body)
    for _ in range(random.randint(1, 8)):
        at = random.randrange(len(body))
        if random.random() < 0.5:
            body[at] = random.randrange(256)
        else:
            del body[at : at + random.randint(1, 9)]
    return bytes(body)


async def ask(port, path, body):
    """Sends a request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer


async def answered(port, path, body):
    reader, writer = await ask(port, path, body)
    try:
        answer = await reader.read()
    finally:
        writer.close()
    head, _, text = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), text


async def client(port, expected, until, counts, waits):
    while time.monotonic() < until:
        before, after = random.choice(list(expected))
        path, body, text_of = random.choice(requests(before, after))
        body = json.dumps(body).encode()
        kind = random.choices(["waits", "leaves", "mutates"], [4, 5, 1])[0]
        if kind == "leaves":
            if random.random() < 0.5:
                body = body[:-1] + b', "stream": true}'
            _, writer = await ask(port, path, body)
            await asyncio.sleep(random.expovariate(5))
            writer.close()
            counts["left"] += 1
        elif kind == "mutates":
            status, _ = await answered(port, path, mutated(body))
            counts[f"mutated: {status}"] += 1
            assert status in (200, 400), status
        else:
            start = time.monotonic()
            status, text = await answered(port, path, body)
            waits.append(time.monotonic() - start)
            assert status == 200, (status, text)
            assert text_of(json.loads(text)) == expected[before, after], (path, before, text)
            counts["answered"] += 1


def memory(process):
    """Kilobytes that the process has in memory."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


async def metrics(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return {name: float(value) for name, value in re.findall(r"^llamacpp:(\w+) (\S+)$", text, re.M)}


async def watch(process, until, seen):
    while time.monotonic() < until:
        seen.append(memory(process))
        await asyncio.sleep(1)


async def load(process, port, expected, options):
    counts, waits, seen = Counter(), [], []
    until = time.monotonic() + options.seconds
    clients = [client(port, expected, until, counts, waits) for _ in range(options.clients)]
    await asyncio.gather(watch(process, until, seen), *clients)
    await asyncio.sleep(1)
    end = await metrics(port)
    assert process.poll() is None, "the server has ended"
    assert end["requests_processing"] == 0 and end["requests_deferred"] == 0, end
    third = max(1, len(seen) // 3)
    warm, last = max(seen[:third]), max(seen[-third:])
    waits.sort()
    for name, count in sorted(counts.items()):
        print(f"{count:8} {name}")
    print(f"{end['n_requests_total']:8.0f} begun by the engine")
    print(f"waited: median {waits[len(waits) // 2]:.2f} s, 95% {waits[len(waits) * 95 // 100]:.2f} s")
    print(f"memory: at most {warm} kB in the first third, {last} kB in the last, {memory(process)} kB at the end")
    assert last < warm * 1.1, "memory grows"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--incoder", default="target/release/incoder", help="the program")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    expected = {hole: printed(options.incoder, *hole) for hole in holes()}
    command = [options.incoder, "serve", "--port", "0", "-d", "cpu", "--temp", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r"127\.0\.0\.1:(\d+)", process.stderr.readline())[1])
        asyncio.run(load(process, port, expected, options))
    finally:
        process.kill()


if __name__ == "__main__":
    main()
