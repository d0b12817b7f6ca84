"""Where training starts: attention that looks back already, and the frequencies of tokens.

A small model on two cores sees too few steps to discover these circuits from noise (a run without them
still predicted from the last two or three tokens after 4M tokens), so they are written into the first
two layers by hand and then trained like everything else:

layer 0   heads 0-3 attend to the token 1, 2, 3, 4 places back, by the fast sinusoids; head 0 leaves
          what it saw in dimensions of its own
layer 1   heads 0-2 attend to what followed earlier occurrences of the current token, and copy it
          (induction, Olsson et al. 2022); head 3 attends to earlier occurrences themselves and takes
          over the tokens before them: at a sentinel, that is what stood before the hole
"""

import math

import torch
from torch import nn

SHARPNESS, MATCH = 3.0, 20.0  # of attention by place, of attention by token
WRITE, COPY = 4.0, 4.0  # how strongly heads write into the residual stream


class Dimensions:
    """Which dimensions of the residual stream hold what at the start."""

    def __init__(self, width, head_width):
        half, fast, slow = width // 2, head_width // 2, min(width // 8, head_width)
        self.fast = [*range(fast), *range(half, half + fast)]  # places, to one token; no token adds to them
        self.own = list(range(half - slow, half))  # the token itself: positions are still here
        self.before = list(range(width - slow, width))  # the token before, once layer 0 has run
        taken = {*self.fast, *self.own, *self.before}
        self.rest = [i for i in range(width) if i not in taken]


def orthogonal(rows, dimensions, width):
    """[rows, width] with orthonormal rows that read `dimensions` only."""
    matrix = torch.zeros(rows, width)
    matrix[:, dimensions] = nn.init.orthogonal_(torch.empty(rows, len(dimensions)))
    return matrix


def picking(rows, dimensions, width):
    """[rows, width] whose first rows read one of `dimensions` each."""
    matrix = torch.zeros(rows, width)
    matrix[range(len(dimensions)), dimensions] = 1.0
    return matrix


class Heads:
    """Writes the heads of one layer; `mean` [d] of its normed input is taken off by the biases."""

    def __init__(self, layer, width, mean):
        self.layer, self.width, self.mean, self.size = layer, width, mean, width // layer.heads

    def set(self, head, query, key, value, out):
        """query, key, value [head width, d]; out [d, head width]."""
        rows = slice(head * self.size, (head + 1) * self.size)
        for part, matrix in enumerate((query, key, value)):
            self.layer.qkv.weight.view(3, self.width, -1)[part, rows] = matrix
            self.layer.qkv.bias.view(3, self.width)[part, rows] = -matrix @ self.mean
        self.layer.out_proj.weight[:, rows] = out


def by_place(distance, head_width, width, gain):
    """(query, key) whose product is largest `distance` tokens back: the query turns the sinusoids by it."""
    half, query, key = width // 2, torch.zeros(head_width, width), torch.zeros(head_width, width)
    for i in range(head_width // 2):
        angle = distance * 10000 ** (-i / (half - 1))
        key[2 * i, i] = key[2 * i + 1, half + i] = gain
        query[2 * i, i] = query[2 * i + 1, half + i] = gain * math.cos(angle)
        query[2 * i, half + i], query[2 * i + 1, i] = -gain * math.sin(angle), gain * math.sin(angle)
    return query, key


def normed_mean(x):
    """(mean [d] of the layer norm of x [n, d], that norm)."""
    normed = nn.functional.layer_norm(x, x.shape[-1:])
    return normed.mean(0), normed


@torch.no_grad()
def start(model, counts):
    """Initialize `model`; `counts` [vocab] says how often each token was seen in a sample."""
    width, places = model.shape.d_model, model.positions[2:514]
    size = width // model.shape.attention_heads
    dimensions, table = Dimensions(width, size), model.embed_tokens.weight
    frequencies(model, counts)
    table[:, dimensions.fast + dimensions.before] = 0
    x = table[torch.randint(0, len(table), (len(places),))] * math.sqrt(width) + places

    mean, _ = normed_mean(x)
    heads, sigma = Heads(model.layers[0], width, mean), float(x.std(1).mean())
    gain = math.sqrt(SHARPNESS * math.sqrt(size)) * sigma
    own, before = picking(size, dimensions.own, width), picking(size, dimensions.before, width)
    heads.set(0, *by_place(1, size, width, gain), own, WRITE * before.T)
    for head in (1, 2, 3):
        value = orthogonal(size, dimensions.rest + dimensions.own, width)
        heads.set(head, *by_place(head + 1, size, width, gain), value, orthogonal(size, dimensions.rest, width).T)

    x = model.layers[0](x[None])[0]
    mean, normed = normed_mean(x)
    power = (normed - mean).pow(2).mean(0)
    heads, own_power, before_power = Heads(model.layers[1], width, mean), *(float(power[d].sum()) for d in (dimensions.own, dimensions.before))
    gain = math.sqrt(MATCH * math.sqrt(size) / math.sqrt(own_power * before_power))
    for head in (0, 1, 2):
        value = orthogonal(size, dimensions.rest + dimensions.own, width)
        heads.set(head, gain * own, gain * before, value, COPY * value.T)
    gain = math.sqrt(MATCH * math.sqrt(size) / own_power)
    heads.set(3, gain * own, gain * own, before, own.T)


def frequencies(model, counts):
    """Token frequencies along one direction of the table, which the final norm's shift picks out."""
    width = model.shape.d_model
    log = (counts.float() + 1).log()
    direction = nn.functional.normalize(torch.randn(width), dim=0)
    model.embed_tokens.weight += torch.outer((log - log.mean()) / math.sqrt(width), direction)
    model.layer_norm.bias += math.sqrt(width) * direction
