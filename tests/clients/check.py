"""OpenAI's and Ollama's own libraries against `incoder serve`: what they send is understood, and what they are sent they can read.

    python3 -m venv venv && venv/bin/pip install -r tests/clients/requirements.txt
    venv/bin/python tests/clients/check.py target/debug/incoder
"""

import re
import subprocess
import sys
import unittest

import ollama
import openai

BEFORE = "def area(w, h):\n    return "
AFTER = "\n\n\nprint(area(2, 3))\n"


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        command = [PROGRAM, "serve", "--port", "0", "-d", "cpu", "--temp", "0"]
        cls.server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        address = re.search(r"http://127\.0\.0\.1:\d+", cls.server.stderr.readline())[0]
        cls.openai = openai.OpenAI(base_url=f"{address}/v1", api_key="x")
        cls.ollama = ollama.Client(host=address)

    @classmethod
    def tearDownClass(cls):
        cls.server.kill()
        cls.server.wait()
        cls.server.stderr.close()

    def test_both_fill_the_same_hole(self):
        ours = self.openai.completions.create(model="incoder", prompt=BEFORE, suffix=AFTER, max_tokens=16)
        theirs = self.ollama.generate(model="incoder", prompt=BEFORE, suffix=AFTER, options={"num_predict": 16})
        self.assertEqual(ours.choices[0].text, theirs.response)
        self.assertEqual(ours.usage.completion_tokens, theirs.eval_count)
        self.assertTrue(theirs.done)

    def test_streams(self):
        arguments = {"model": "incoder", "prompt": BEFORE, "max_tokens": 16}
        answer = self.openai.completions.create(**arguments)
        whole = answer.choices[0].text
        chunks = list(self.openai.completions.create(**arguments, stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(chunk.choices[0].text for chunk in chunks if chunk.choices), whole)
        self.assertEqual(chunks[-1].usage.completion_tokens, answer.usage.completion_tokens)
        parts = self.ollama.generate(model="incoder", prompt=BEFORE, options={"num_predict": 16}, stream=True)
        self.assertEqual("".join(part.response for part in parts), whole)

    def test_a_stream_that_is_left_ends(self):
        with self.openai.completions.create(model="incoder", prompt=BEFORE, max_tokens=2000, stream=True) as stream:
            next(iter(stream))
        # The next one does not wait for what was left.
        self.openai.with_options(timeout=20).completions.create(model="incoder", prompt="x", max_tokens=1)

    def test_log_probabilities_and_several_choices(self):
        answer = self.openai.completions.create(model="incoder", prompt=BEFORE, max_tokens=8, logprobs=2, n=2)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        logprobs = answer.choices[0].logprobs
        self.assertEqual(len(logprobs.tokens), len(logprobs.token_logprobs))
        self.assertTrue(all(logprob <= 0 for logprob in logprobs.token_logprobs))
        scored = self.openai.completions.create(model="incoder", prompt=BEFORE, max_tokens=0, echo=True, logprobs=1)
        self.assertEqual("".join(scored.choices[0].logprobs.tokens), BEFORE)
        self.assertIsNone(scored.choices[0].logprobs.token_logprobs[0])

    def test_what_is_refused_is_said_once(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.openai.completions.create(model="incoder", prompt=BEFORE, n=99)
        self.assertIn("'n'", refused.exception.body["message"])
        with self.assertRaises(openai.InternalServerError) as refused:
            self.openai.chat.completions.create(model="incoder", messages=[{"role": "user", "content": "hello"}])
        self.assertEqual(refused.exception.response.headers["x-should-retry"], "false")
        with self.assertRaises(ollama.ResponseError):
            self.ollama.chat(model="incoder", messages=[{"role": "user", "content": "hello"}])

    def test_what_is_there(self):
        self.assertEqual(self.openai.models.list().data[0].id, "incoder-demo")
        self.assertEqual(self.ollama.list().models[0].model, "incoder-demo")
        self.assertIn(".Suffix", self.ollama.show("incoder").template)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
