"""InCoder's network (XGLM) in torch: pre-norm, tied head, sinusoidal positions, exact GELU.

Q, K and V share one weight [3d, d] here; `export_state` splits them into the published key names.
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

BLOCKS = 4  # of queries in attention on a CPU
FREQUENT = 1280  # ids below this are always among the sampled rows
ROWS_TIMES = 256  # their number is a multiple of this: kernels are kept for every size that they have seen


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; the defaults are those of the shipped model."""

    vocab_size: int = 8192
    d_model: int = 192
    num_layers: int = 4
    attention_heads: int = 6
    ffn_dim: int = 768
    max_position_embeddings: int = 2048


def sinusoids(rows, width):
    """P [rows, width]: sines, then cosines, of row * 10000^(-i / (width/2 - 1)); row 1 is zero."""
    half = width // 2
    frequency = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
    angle = torch.arange(rows).float()[:, None] * frequency[None, :]
    table = torch.cat([angle.sin(), angle.cos()], dim=1)
    table[1] = 0
    return table


def attend(q, k, v):
    """Causal attention of [batch, heads, time, head_dim]; `k` and `v` may hold a past before the queries.

    On a CPU torch's own kernel takes more than a third of a training step: four blocks of queries, each as
    plain matrix products with the keys up to its end, take half as long in bfloat16.
    """
    batch, heads, time, size = q.shape
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or time < BLOCKS or time != k.shape[2]:
        return F.scaled_dot_product_attention(q, k, v, is_causal=time > 1)
    q, k, v = (x.reshape(batch * heads, time, size) for x in (q * size**-0.5, k, v))
    mixed, step = [], -(-time // BLOCKS)
    for start in range(0, time, step):
        end = min(time, start + step)
        hidden = torch.full((end - start, end), -1e4, dtype=q.dtype).triu(start + 1)
        scores = torch.baddbmm(hidden.expand(batch * heads, -1, -1), q[:, start:end], k[:, :end].mT)
        mixed.append(torch.bmm(scores.softmax(-1, dtype=q.dtype), v[:, :end]))
    return torch.cat(mixed, dim=1).view(batch, heads, time, size)


class Layer(nn.Module):
    """One pre-norm block; x [batch, time, d] -> the same shape."""

    def __init__(self, shape):
        super().__init__()
        d, ffn = shape.d_model, shape.ffn_dim
        self.heads = shape.attention_heads
        self.self_attn_layer_norm = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.out_proj = nn.Linear(d, d)
        self.final_layer_norm = nn.LayerNorm(d)
        self.fc1 = nn.Linear(d, ffn)
        self.fc2 = nn.Linear(ffn, d)
        for linear in (self.qkv, self.fc1):
            nn.init.normal_(linear.weight, std=d**-0.5)
        for linear in (self.out_proj, self.fc2):
            nn.init.zeros_(linear.weight)
        for linear in (self.qkv, self.out_proj, self.fc1, self.fc2):
            nn.init.zeros_(linear.bias)

    def forward(self, x, cache=None):
        """`cache`, a list of [keys, values] so far, is extended in place when given."""
        batch, time, d = x.shape
        x = x.flatten(0, 1)
        # Each [batch, heads, time, head_dim].
        q, k, v = self.before(x).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if cache:
            k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
        if cache is not None:
            cache[:] = [k, v]
        mixed = attend(q, k, v)
        return self.after(x, mixed.transpose(1, 2).reshape(batch * time, d)).view(batch, time, d)

    def before(self, x):
        """Queries, keys and values [tokens, 3 d] of x [tokens, d]."""
        return self.qkv(self.self_attn_layer_norm(x))

    def after(self, x, mixed):
        """What becomes of x [tokens, d] with what attention read."""
        x = x + self.out_proj(mixed)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


def head_loss(hidden, table, offset, target, weight):
    """(losses, gradient of hidden, gradient of table) of weight * cross entropy for some positions."""
    logits = (hidden @ table.T).float() + offset
    logits -= logits.amax(1, keepdim=True)
    picked = logits.gather(1, target[:, None])[:, 0]
    logits.exp_()
    total = logits.sum(1)
    losses = total.log() - picked
    logits *= (weight / total)[:, None]
    logits.scatter_add_(1, target[:, None], -weight[:, None])
    logits = logits.to(hidden.dtype)
    return losses, logits @ table, logits.T @ hidden


class TiedLoss(torch.autograd.Function):
    """Weighted cross entropy against a tied head, a chunk of positions at a time.

    The gradients are made with the loss, so that no more than `rows` rows of logits ever exist.
    hidden [n, d], table [rows, d], offset [rows] (added to the logits), target [n], weight [n]
    -> (sum of weight * loss, losses [n]).
    """

    rows, part = 512, staticmethod(head_loss)

    @staticmethod
    def forward(ctx, hidden, table, offset, target, weight):
        device = hidden.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else table.dtype
        grad_hidden, grad_table = torch.empty_like(hidden), torch.zeros_like(table)
        losses = torch.empty_like(weight)
        with torch.autocast(device, enabled=False):
            hidden, table = hidden.to(kind), table.to(kind)
            for start in range(0, len(hidden), TiedLoss.rows):
                part = slice(start, start + TiedLoss.rows)
                made = TiedLoss.part(hidden[part], table, offset, target[part], weight[part])
                losses[part], grad_hidden[part] = made[:2]
                grad_table += made[2]
        ctx.save_for_backward(grad_hidden, grad_table)
        ctx.mark_non_differentiable(losses)
        return (losses * weight).sum(), losses

    @staticmethod
    def backward(ctx, grad, _):
        grad_hidden, grad_table = ctx.saved_tensors
        return grad_hidden * grad, grad_table * grad, None, None, None


def sampled_rows(target, vocab, negatives):
    """A part of the vocabulary whose softmax stands in for the whole: every target of the batch, the
    FREQUENT first ids (merges are learned in order of frequency), and `negatives` or a few more of the
    other tokens, each counted for all those it was drawn from.

    target [n] -> (token ids [rows], logit offsets [rows], target's index into those ids [n]).
    """
    present = torch.cat([target, torch.arange(FREQUENT, device=target.device)]).unique()
    absent = torch.ones(vocab, dtype=torch.bool, device=target.device).index_fill_(0, present, False).nonzero()[:, 0]
    negatives += -(len(present) + negatives) % ROWS_TIMES
    drawn = absent[torch.randperm(len(absent), device=target.device)[:negatives]]
    offset = torch.zeros(len(present) + len(drawn), device=target.device)
    offset[len(present) :] = math.log(len(absent) / max(1, len(drawn)))
    return torch.cat([present, drawn]), offset, torch.searchsorted(present, target)


class InCoder(nn.Module):
    def __init__(self, shape=Shape()):
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.d_model)
        nn.init.normal_(self.embed_tokens.weight, std=0.03)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.layer_norm = nn.LayerNorm(shape.d_model)
        positions = sinusoids(shape.max_position_embeddings + 2, shape.d_model)
        self.register_buffer("positions", positions, persistent=False)

    def hidden(self, ids, caches=None):
        """Final normed states [batch, time, d] of ids [batch, time]."""
        past = caches[0][0].shape[2] if caches and caches[0] else 0
        x = self.embed_tokens(ids) * math.sqrt(self.shape.d_model)
        x = x + self.positions[past + 2 : past + 2 + ids.shape[1]]
        for i, layer in enumerate(self.layers):
            x = layer(x, caches[i] if caches is not None else None)
        return self.layer_norm(x)

    def loss(self, ids, weight, negatives=None):
        """ids [batch, time + 1], weight [batch, time] of predicting ids[:, 1:].

        Returns the weighted mean loss, and the unweighted loss of every target [batch, time]. With
        `negatives`, both are estimates from a part of the vocabulary (see `sampled_rows`).
        """
        hidden = self.hidden(ids[:, :-1]).flatten(0, 1)
        target, flat, table = ids[:, 1:].flatten(), weight.flatten(), self.embed_tokens.weight
        if negatives is None:
            offset = table.new_zeros(len(table))
        else:
            rows, offset, target = sampled_rows(target, len(table), negatives)
            table = table[rows]
        total, losses = TiedLoss.apply(hidden, table, offset, target, flat)
        return total / flat.sum(), losses.view_as(weight)

    def logits(self, ids, caches=None):
        """Logits [batch, vocab] after the last of ids [batch, time]."""
        return self.hidden(ids, caches)[:, -1] @ self.embed_tokens.weight.T


def wrap_parts(model, head_rows, wrap):
    """Pass everything in training that is not attention through `wrap`, which may compile it.

    These parts see [tokens, width], whatever the length of a row: one compilation serves all of them, and all layers.
    """
    TiedLoss.rows, TiedLoss.part = head_rows, staticmethod(wrap(head_loss))
    before, after = wrap(Layer.before), wrap(Layer.after)
    for layer in model.layers:
        layer.before, layer.after = partial(before, layer), partial(after, layer)


def config(shape):
    """The published config.json fields for `shape`."""
    return {
        "activation_dropout": 0.0,
        "activation_function": "gelu",
        "architectures": ["XGLMForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "decoder_start_token_id": 2,
        "dropout": 0.0,
        "eos_token_id": 2,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "model_type": "xglm",
        "pad_token_id": 1,
        "scale_embedding": True,
        "torch_dtype": "float16",
        "use_cache": True,
        **asdict(shape),
    }


def export_state(model):
    """The weights under their published names, fp16, head and positions left out."""
    state = {}
    for name, tensor in model.state_dict().items():
        if ".qkv." in name:
            for part, rows in zip("qkv", tensor.chunk(3)):
                state["model." + name.replace("qkv", f"self_attn.{part}_proj")] = rows
        else:
            state["model." + name.replace("out_proj", "self_attn.out_proj")] = tensor
    return {name: tensor.detach().cpu().half().contiguous() for name, tensor in state.items()}


def export(model, folder):
    """Write config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(model.shape), indent=2, sort_keys=True) + "\n")
    save_file(export_state(model), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)


def deepen(model, num_layers):
    """A model of more layers that computes the same: each new one, after the second, fourth, ... old layer,
    begins with projections that add nothing to the residual stream."""
    old, new = model.layers, num_layers - len(model.layers)
    deep = InCoder(replace(model.shape, num_layers=num_layers))
    copied, wanted = [], deep.state_dict()
    for index in range(len(old)):
        copied.append(index)
        if new > 0 and index % 2 == 1 or index == len(old) - 1:
            count = min(new, 1) if index < len(old) - 1 else new
            copied += [None] * count
            new -= count
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("layers.")}
    for target, source in enumerate(copied):
        for name, tensor in (old[source].state_dict() if source is not None else {}).items():
            state[f"layers.{target}.{name}"] = tensor
    deep.load_state_dict({**wanted, **state})
    return deep


def load_exported(folder):
    """The model of an exported folder, in fp32 arithmetic on the fp16 weights."""
    fields = json.loads((folder / "config.json").read_text())
    model = InCoder(Shape(**{name: fields[name] for name in asdict(Shape())}))
    stored = {name.removeprefix("model."): t.float() for name, t in load_file(folder / "model.safetensors").items()}
    for i in range(model.shape.num_layers):
        for kind in ("weight", "bias"):
            parts = [stored.pop(f"layers.{i}.self_attn.{p}_proj.{kind}") for p in "qkv"]
            stored[f"layers.{i}.qkv.{kind}"] = torch.cat(parts)
            stored[f"layers.{i}.out_proj.{kind}"] = stored.pop(f"layers.{i}.self_attn.out_proj.{kind}")
    model.load_state_dict(stored)
    return model.eval()
