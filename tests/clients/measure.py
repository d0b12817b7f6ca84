"""What a keystroke costs: in the server itself, and in Neovim until its ghost text is there.

    cargo xtask clients    # fetches Neovim
    NEOVIM=target/clients/editors/nvim target/clients/bin/python tests/clients/measure.py target/release/incoder [-d llvmpipe]

The flags after the program are those of `incoder serve`.
"""

import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import editors

REQUESTS = 1000
#: What is typed, in the middle of a file.
TYPED = "total = total + item.price * item.count"
BEFORE = "".join(f"def step_{i}(items):\n    return [item for item in items if item.count > {i}]\n\n\n" for i in range(12))
AFTER = "\n    return total\n" + "".join(f"\n\ndef last_{i}(items):\n    return items[-{i + 1}:]\n" for i in range(6))
FUNCTION = "def price(items):\n    total = 0\n    for item in items:\n        "

#: Counts the answers that Neovim has got.
ANSWERED = """
vim.g.answered = 0
vim.api.nvim_create_autocmd('LspRequest', { callback = function(event)
  local request = event.data.request
  if request.type == 'complete' and request.method == 'textDocument/inlineCompletion' then
    vim.schedule(function() vim.g.answered = vim.g.answered + 1 end)
  end
end })
"""


def percentiles(milliseconds):
    cut = statistics.quantiles(milliseconds, n=100)
    return f"p50 {cut[49]:.2f} ms, p95 {cut[94]:.2f} ms, of {len(milliseconds)}"


class Server:
    def __init__(self, flags):
        self.process = subprocess.Popen([PROGRAM, "serve", "--port", "0", *flags], stderr=subprocess.PIPE, text=True)
        host, port = re.search(r"http://([\d.]+):(\d+)", self.process.stderr.readline()).groups()
        self.authority = f"{host}:{port}"
        self.connection = http.client.HTTPConnection(host, int(port))
        # The first request waits for the model.
        self.post("/tokenize", {"content": "x"})

    def post(self, path, body):
        self.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return json.loads(self.connection.getresponse().read())

    def metric(self, name):
        self.connection.request("GET", "/metrics")
        text = self.connection.getresponse().read().decode()
        return float(re.search(rf"^llamacpp:{name} (\S+)$", text, re.M)[1])


def server_alone(server):
    """Requests for which nothing is computed."""
    taken = []
    for i in range(REQUESTS):
        body = {"input_prefix": BEFORE, "prompt": TYPED[: i % len(TYPED)], "input_suffix": AFTER, "n_predict": 0}
        start = time.perf_counter()
        server.post("/infill", body)
        taken.append((time.perf_counter() - start) * 1e3)
    print(f"the server without the model: {percentiles(taken)} requests")


def neovim(server):
    """Keys one after the other, each once the one before is answered."""
    text = BEFORE + FUNCTION + editors.HOLE + AFTER
    made, along, computed = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        with editors.Neovim(Path(folder), text, ["--server", server.authority, "--max-tokens", "24"]) as editor:
            answered = lambda: editor.nvim.vars["answered"]
            editor.nvim.exec_lua(ANSWERED)
            editor.nvim.input("A")
            editors.wait("the first answer", answered)
            for key in TYPED:
                requests, tokens, before = server.metric("n_requests_total"), server.metric("prompt_tokens_total"), answered()
                start = time.perf_counter()
                editor.nvim.input(key)
                editors.wait("an answer", lambda: answered() > before)
                taken = (time.perf_counter() - start) * 1e3
                editors.wait("the end of the request", lambda: server.metric("requests_processing") == 0)
                is_new = server.metric("n_requests_total") > requests
                (made if is_new else along).append(taken)
                if is_new:
                    computed.append(server.metric("prompt_tokens_total") - tokens)
    print(f"from a key to the ghost text in Neovim, which waits 200 ms of it: {percentiles(made)} keys with a request")
    print(f"the same where what was suggested is typed: median {statistics.median(along or [0]):.2f} ms, of {len(along)} keys")
    print(f"prompt tokens computed for a request: median {statistics.median(computed):.0f}, most {max(computed):.0f}")


if __name__ == "__main__":
    PROGRAM = editors.PROGRAM = sys.argv[1]
    serving = Server(sys.argv[2:])
    try:
        server_alone(serving)
        neovim(serving)
    finally:
        serving.process.kill()
