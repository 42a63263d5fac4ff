"""The model class of this directory, for mlx-lm: the stock one, with the experts of some layers in banks.

Stock mlx-lm stores all experts of a layer in one stack per projection, and a stack has one bit width. Here the experts are
sorted into a few banks, each a SwitchGLU of its own with widths of its own. The router's rows were sorted with them, so the
number that the router gives an expert is its place: bank 0 holds the first experts, bank 1 the next, and so on.

config.json names this file in "model_file"; mlx-lm runs it only with trust_remote_code=True (--trust-remote-code). Its
"optimum_expert_order" says for every such layer which experts of the original model each bank holds; the numbers themselves
serve those who want the original order back, here only their count matters:

    "optimum_expert_order": {"model.layers.0.mlp.switch_mlp": [[3, 17, 20], [0, 1, 2, ...]], ...}

Written by Optimum and the same for every model; it may be copied and changed freely.
"""
import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchGLU

_config = json.loads((Path(__file__).parent / "config.json").read_text(encoding="utf-8"))
stock = importlib.import_module("mlx_lm.models." + _config["model_type"])


class Banks(nn.Module):
    """In place of a SwitchGLU: the same call, the same result."""

    # From so many choices of experts on, choices are sorted by bank, which waits for the router's answer. Below, every bank
    # looks at every choice: more work, but a GPU can run ahead of Python. A processor has nothing to run ahead of.
    few = 64 if mx.default_device() == mx.Device(mx.gpu) else 0

    def __init__(self, stack, sizes):
        super().__init__()
        width, hidden = stack.up_proj.input_dims, stack.up_proj.output_dims
        bias = "bias" in stack.up_proj
        self.banks = [SwitchGLU(width, hidden, n, activation=stack.activation, bias=bias) for n in sizes]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]

    def __call__(self, x, indices):
        """x [..., C], indices [..., K] of experts -> [..., K, C]."""
        indices = mx.stop_gradient(indices)
        # mlx cannot wait for a number while it traces gradients.
        if self.training or indices.size < self.few:
            return self._all_banks(x, indices)
        return self._sorted(x, indices)

    def _all_banks(self, x, indices):
        """Every bank makes something of every choice; what it made of another bank's experts is dropped. Those choices all go
        to its first expert, so that a bank reads one matrix more at most."""
        y = None
        for bank, start, end in zip(self.banks, self._starts, self._starts[1:]):
            mine = (indices >= start) & (indices < end)
            out = bank(x, mx.where(mine, indices - start, 0))
            y = out if y is None else mx.where(mine[..., None], out, y)
        return y

    def _sorted(self, x, indices):
        """Choices in the order of their experts: each bank gets a run of them and no other."""
        flat = indices.flatten()
        order = mx.argsort(flat)
        flat = flat[order]
        rows = x.reshape(-1, x.shape[-1])[order // indices.shape[-1]]
        starts = mx.array(self._starts[1:-1], flat.dtype)
        cuts = [0, *(flat[:, None] < starts).sum(axis=0).tolist(), flat.size]
        parts = [
            bank(rows[a:b], flat[a:b, None] - start)
            for bank, start, a, b in zip(self.banks, self._starts, cuts, cuts[1:])
            if a < b
        ]
        y = mx.concatenate(parts)[mx.argsort(order)]
        return y.reshape(*indices.shape, x.shape[-1])


@dataclass
class ModelArgs(stock.ModelArgs):
    optimum_expert_order: dict = field(default_factory=dict)


class Model(stock.Model):
    def __init__(self, args):
        super().__init__(args)
        for path, banks in args.optimum_expert_order.items():
            *parents, name = path.split(".")
            owner = self
            for key in parents:
                owner = owner[int(key)] if isinstance(owner, list) else getattr(owner, key)
            setattr(owner, name, Banks(getattr(owner, name), [len(experts) for experts in banks]))

    def shard(self, group=None):
        raise NotImplementedError("experts in banks cannot be spread over several machines")
