"""Properties of the network and of the stream; skipped where requirements.txt is not installed.

    python3 -m unittest discover -s examples/demo-model
"""

import json
import tempfile
import unittest
from pathlib import Path

try:
    import numpy as np
    import torch
    import torch.nn.functional as F

    from model import InCoder, Shape, attend, deepen, export, head_loss, load_exported
    from stream import Stream, stretches
except ImportError:
    torch = None

HERE = Path(__file__).resolve().parent
SMALL = dict(vocab_size=512, d_model=64, num_layers=4, attention_heads=2, ffn_dim=128, max_position_embeddings=256)


def random_model():
    """A small model none of whose parameters is zero."""
    torch.manual_seed(1)
    model = InCoder(Shape(**SMALL))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@unittest.skipIf(torch is None, "needs torch, numpy and tokenizers")
class Network(unittest.TestCase):
    def test_a_deeper_model_computes_the_same(self):
        model, ids = random_model(), torch.randint(0, 512, (2, 50))
        with torch.no_grad():
            for layers in (4, 5, 6, 9):
                deep = deepen(model, layers)
                self.assertEqual(len(deep.layers), layers)
                self.assertTrue(torch.equal(deep.hidden(ids), model.hidden(ids)))

    def test_attention_in_blocks_is_attention(self):
        for time in (4, 63, 64, 257):
            q, k, v = (torch.randn(2, 3, time, 32, dtype=torch.bfloat16) for _ in range(3))
            wanted = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True)
            error = (attend(q, k, v).float() - wanted).norm() / wanted.norm()
            self.assertLess(float(error), 0.01)

    def test_the_head_agrees_with_cross_entropy(self):
        hidden, table = torch.randn(20, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
        target, weight, offset = torch.randint(0, 30, (20,)), torch.rand(20), torch.randn(30)
        wanted = F.cross_entropy(hidden @ table.T + offset, target, reduction="none")
        (wanted * weight).sum().backward()
        for made, reference in zip(head_loss(hidden.detach(), table.detach(), offset, target, weight),
                                   (wanted, hidden.grad, table.grad)):
            self.assertTrue(torch.allclose(made, reference.detach(), atol=1e-5))

    def test_exported_weights_load_again(self):
        model, ids = random_model(), torch.randint(0, 512, (1, 20))
        with tempfile.TemporaryDirectory() as folder:
            export(model, Path(folder))
            loaded = load_exported(Path(folder))
        with torch.no_grad():
            self.assertLess(float((loaded.logits(ids) - model.logits(ids)).abs().max()), 0.05)


@unittest.skipIf(torch is None, "needs torch, numpy and tokenizers")
class Rows(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.corpus = Path(self.folder.name) / "train.jsonl"
        source = [path.read_text() for path in sorted(HERE.glob("*.py"))]
        names = ("a.py", "b.ts")
        self.corpus.write_text("".join(json.dumps({"path": n, "text": t}) + "\n" for t in source for n in names))

    def tearDown(self):
        self.folder.cleanup()

    def stream(self):
        return Stream(stretches(self.corpus), HERE / "weights" / "tokenizer.json")

    def test_a_restored_stream_goes_on_where_it_was(self):
        first, second = self.stream(), self.stream()
        first.batch(3, 256)
        second.restore(first.state())
        for one, other in zip(first.batch(4, 256), second.batch(4, 256)):
            self.assertTrue(np.array_equal(one, other))

    def test_a_changed_corpus_is_read_from_its_beginning(self):
        first = self.stream()
        first.batch(3, 256)
        state = first.state()
        with open(self.corpus, "a") as out:
            out.write(json.dumps({"path": "c.py", "text": "x = 1\n" * 400}) + "\n")
        second = self.stream()
        second.restore(state)
        self.assertEqual((second.taken, second.cursors), ([0, 0], {}))

    def test_python_is_seven_in_ten(self):
        stream = self.stream()
        for _ in range(4000):
            stream.opened()
        self.assertAlmostEqual(stream.taken[0] / sum(stream.taken), 0.7, delta=0.04)


if __name__ == "__main__":
    unittest.main()
