"""Muon for the layers' matrices, AdamW for everything else, under one learning-rate factor.

Muon (K. Jordan, 2024): momentum whose update is orthogonalized by a Newton-Schulz iteration.
"""

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 4
EMBED_DECAY = 0.1


def orthogonalize(batch):
    """[n, rows, cols] with rows <= cols -> nearly the nearest semi-orthogonal matrices."""
    a, b, c = COEFFICIENTS
    x = batch / (batch.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; a tall stack [k*d, d] of square matrices is done one by one.

    The decoupled weight decay is strong, because small batches make every update mostly noise, which
    otherwise piles up until attention and GELU saturate.
    """

    def __init__(self, parameters, lr, kind, momentum=0.95, decay=0.1):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, decay=decay))
        self.kind = kind  # of the numbers that are orthogonalized

    @staticmethod
    def split(name_shape):
        """How many separate matrices a parameter of this shape holds (Q, K and V share one)."""
        rows, cols = name_shape
        return 3 if rows == 3 * cols else 1

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            waiting = {}
            for p in group["params"]:
                p.mul_(1 - group["lr"] * group["decay"])
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"])
                for target, part in zip(p.chunk(self.split(p.shape)), update.chunk(self.split(p.shape))):
                    tall = part.shape[0] > part.shape[1]
                    wide = part.mT if tall else part
                    waiting.setdefault(wide.shape, []).append((target, wide, tall))
            for entries in waiting.values():
                done = orthogonalize(torch.stack([wide for _, wide, _ in entries]).to(self.kind))
                for (target, _, tall), new in zip(entries, done):
                    scale = max(1.0, target.shape[0] / target.shape[1]) ** 0.5
                    target.add_(new.mT if tall else new, alpha=-group["lr"] * scale)


class Optimizers:
    """All optimizers of a model, stepped together."""

    def __init__(self, model, muon_lr, embed_lr, adam_lr, kind=torch.bfloat16):
        matrices = [p for n, p in model.named_parameters() if n.startswith("layers.") and p.ndim == 2]
        chosen = {id(p) for p in matrices}
        table = model.embed_tokens.weight
        others = [p for p in model.parameters() if id(p) not in chosen and p is not table]
        adam = dict(betas=(0.9, 0.95), eps=1e-10, fused=True)
        # The input is the table times sqrt(d) plus positions of a fixed size: let it grow, and the positions drown.
        embedding = torch.optim.AdamW([table], lr=embed_lr, weight_decay=EMBED_DECAY, **adam)
        rest = torch.optim.AdamW(others, lr=adam_lr, weight_decay=0.0, **adam)
        self.parameters = [*matrices, table, *others]
        self.peaks = [(Muon(matrices, muon_lr, kind), muon_lr), (embedding, embed_lr), (rest, adam_lr)]

    def step(self, factor, clip):
        """One update at `factor` of the peak rates; returns the gradient's norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, clip)
        for optimizer, peak in self.peaks:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self):
        return [optimizer.state_dict() for optimizer, _ in self.peaks]

    def load_state_dict(self, states):
        for (optimizer, _), state in zip(self.peaks, states):
            optimizer.load_state_dict(state)
