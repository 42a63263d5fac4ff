#!/usr/bin/env python3
"""Compare the gradients of dump_gradients with PyTorch's.

    reference.py MODEL.gguf TOKENS.bin LABELS.bin GRADIENTS.bin [--tol 1e-2] [--dtype float64] [--worst 8] [--round]
                 [--follow] [--expert-tol 1e-2]

A plain decoder is built from the GGUF's metadata (weights dequantized by gguf-py, arithmetic in float64), the loss
is L = sum over positions of -log p(label), and autograd gives dL/dW. For every weight of the dump the relative
Frobenius error |ours - torch| / |torch| is computed, and for a stack of experts also that of every expert that a token
chose (the others must have exactly zero); a table shows the worst. Exit status 1 when one is above --tol, or an expert
above --expert-tol (default: --tol).

It shares nothing with Optimum or llama.cpp but the file: a second opinion on both.

llama.cpp's CPU kernels round the input of a product with a 16-bit weight to that type, which moves the point where the
gradient is taken by about 1e-2. --round does the same in the forward pass here, to tell this from an error of ours.

Which experts a token goes to is a step function of the router's input, so where roundings differ a token on the edge may
go elsewhere. The dump says what was chosen there: how many choices differ from those here is printed, and with --follow
those of the dump are used here too.
"""
import argparse
import math
import struct
import sys

import gguf
import numpy as np
import torch
import torch.nn.functional as F

ARCHS = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "qwen2moe", "qwen3moe", "olmoe", "gpt-oss", "dots1")


class Model:
    """Metadata and weights of one GGUF."""

    def __init__(self, path, dtype, rounded):
        reader = gguf.GGUFReader(path)
        self.fields = {name: field for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
        self.arch = self.fields["general.architecture"].contents()
        if self.arch not in ARCHS:
            sys.exit(f"{path}: architecture {self.arch} is not one of {', '.join(ARCHS)}")
        self.weights, self.round_to = {}, {}
        sixteen = {gguf.GGMLQuantizationType.BF16: torch.bfloat16, gguf.GGMLQuantizationType.F16: torch.float16}
        for tensor in reader.tensors:
            data = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            shape = [int(n) for n in reversed(tensor.shape)]
            self.weights[tensor.name] = torch.tensor(np.array(data).reshape(shape), dtype=dtype)
            self.round_to[tensor.name] = sixteen.get(tensor.tensor_type) if rounded else None
        self.dtype = dtype
        self.n_layer = int(self.get("block_count"))
        self.n_embd = int(self.get("embedding_length"))
        self.n_head = int(self.get("attention.head_count"))
        self.n_kv = int(self.get("attention.head_count_kv", self.n_head))
        self.head = int(self.get("attention.key_length", self.n_embd // self.n_head))
        self.n_rot = int(self.get("rope.dimension_count", self.head))
        self.eps = float(self.get("attention.layer_norm_rms_epsilon"))
        self.window = int(self.get("attention.sliding_window", 0))
        self.gemma = self.arch.startswith("gemma")
        self.chosen = {}  # layer -> [T, K] the experts of the dump
        self.follow = False
        self.choices = self.flips = 0

    def get(self, key, default=None):
        field = self.fields.get(f"{self.arch}.{key}")
        if field is None:
            if default is None:
                sys.exit(f"the model has no {self.arch}.{key}")
            return default
        return field.contents()

    def w(self, name, layer=None):
        return self.weights.get((f"blk.{layer}." if layer is not None else "") + name)

    # ---- what an architecture does differently

    def is_local(self, layer):
        """Does the layer look back over the sliding window only?"""
        period = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2}.get(self.arch, 0)
        return period > 0 and self.window > 0 and layer % period < period - 1

    def attention_scale(self):
        big = {"gemma2": 46, "gemma3": 62}.get(self.arch)
        return 1 / math.sqrt(self.n_embd // self.n_head if self.n_layer == big else self.head)

    def rope_base_and_scale(self, layer):
        kind = self.get("rope.scaling.type", "none")
        if kind in ("yarn", "longrope"):
            sys.exit(f"rope scaling {kind} is not in this reference")
        scale = 1 / float(self.get("rope.scaling.factor", 1.0)) if kind == "linear" else 1.0
        base = float(self.get("rope.freq_base", 10000.0))
        if self.arch == "gemma3" and self.is_local(layer):
            return float(self.get("rope.freq_base_swa", 10000.0)), 1.0
        return base, scale


def rms_norm(model, x, name, layer=None):
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + model.eps)
    return y * model.w(name, layer)


def rope(model, x, layer):
    """x [T, heads, head]; pairs are neighbours in llama, halves elsewhere."""
    base, scale = model.rope_base_and_scale(layer)
    half = model.n_rot // 2
    frequency = base ** (-torch.arange(half, dtype=model.dtype) * 2 / model.n_rot) * scale
    for name in ("rope_freqs.weight", "rope_factors_short.weight"):
        if model.w(name) is not None:
            frequency = frequency / model.w(name)
    angle = torch.arange(x.shape[0], dtype=model.dtype)[:, None] * frequency
    cos, sin = angle.cos()[:, None, :], angle.sin()[:, None, :]
    turned, rest = x[..., : model.n_rot], x[..., model.n_rot :]
    if model.arch == "llama":
        a, b = turned[..., 0::2], turned[..., 1::2]
        y = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    else:
        a, b = turned[..., :half], turned[..., half:]
        y = torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
    return torch.cat((y, rest), -1)


class RoundedProduct(torch.autograd.Function):
    """x Wᵀ with x rounded on the way forwards only."""

    @staticmethod
    def forward(ctx, x, weight, to):
        ctx.save_for_backward(x, weight)
        return x.float().to(to).to(x.dtype) @ weight.T

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        return g @ weight, g.T @ x, None


def product(model, x, name):
    to = model.round_to[name]
    return x @ model.w(name).T if to is None else RoundedProduct.apply(x, model.w(name), to)


def linear(model, x, role, layer):
    y = product(model, x, f"blk.{layer}.{role}.weight")
    bias = model.w(f"{role}.bias", layer)
    return y if bias is None else y + bias


def attention(model, x, layer):
    T, H, K, D = x.shape[0], model.n_head, model.n_kv, model.head
    if model.arch == "phi3" and model.w("attn_qkv.weight", layer) is not None:
        q, k, v = linear(model, x, "attn_qkv", layer).split((H * D, K * D, K * D), -1)
    else:
        q, k, v = (linear(model, x, role, layer) for role in ("attn_q", "attn_k", "attn_v"))
    if model.arch == "olmoe":  # one norm over all heads
        q = rms_norm(model, q, "attn_q_norm.weight", layer)
        k = rms_norm(model, k, "attn_k_norm.weight", layer)
    q, k, v = q.reshape(T, H, D), k.reshape(T, K, D), v.reshape(T, K, D)
    if model.arch != "olmoe" and model.w("attn_q_norm.weight", layer) is not None:
        q = rms_norm(model, q, "attn_q_norm.weight", layer)
        k = rms_norm(model, k, "attn_k_norm.weight", layer)
    q, k = rope(model, q, layer), rope(model, k, layer)
    k, v = (t.repeat_interleave(H // K, dim=1) for t in (k, v))
    score = torch.einsum("qhd,khd->hqk", q, k) * model.attention_scale()
    if model.arch == "gemma2":
        cap = float(model.get("attn_logit_softcapping", 50.0))
        score = torch.tanh(score / cap) * cap
    ahead = torch.arange(T)[None, :] - torch.arange(T)[:, None]
    hidden = ahead > 0
    if model.is_local(layer):
        hidden = hidden | (-ahead >= model.window)
    score = score.masked_fill(hidden, -math.inf)
    sinks = model.w("attn_sinks.weight", layer)
    if sinks is None:
        p = score.softmax(-1)
    else:  # a sink takes part in the softmax and has no value
        p = torch.cat((score, sinks[:, None, None].expand(H, T, 1)), -1).softmax(-1)[..., :T]
    y = torch.einsum("hqk,khd->qhd", p, v).reshape(T, H * D)
    return linear(model, y, "attn_output", layer)


def dense(model, x, layer, kind=""):
    """The plain feed-forward part; kind "_shexp": the expert that every token passes."""
    if model.arch == "phi3":
        gate, up = linear(model, x, "ffn_up", layer).chunk(2, -1)
    else:
        gate, up = (linear(model, x, role + kind, layer) for role in ("ffn_gate", "ffn_up"))
    gate = F.gelu(gate, approximate="tanh") if model.gemma else F.silu(gate)
    return linear(model, gate * up, "ffn_down" + kind, layer)


def best_groups(model, score):
    """Scores with -inf for experts outside of the best groups (the sum of a group's two best decides)."""
    n_groups = int(model.get("expert_group_count", 0))
    if n_groups < 2:
        return score
    grouped = score.reshape(len(score), n_groups, -1)
    best = grouped.topk(2, -1).values.sum(-1).topk(int(model.get("expert_group_used_count")), -1).indices
    keep = torch.zeros(len(score), n_groups, dtype=torch.bool).scatter_(1, best, True)
    return grouped.masked_fill(~keep[..., None], -math.inf).reshape(score.shape)


def choose(model, score, layer, n_used):
    """[T, K] experts of every token; the choice passes no gradient."""
    ours = best_groups(model, score.detach()).topk(n_used, -1).indices
    theirs = model.chosen.get(layer)
    if theirs is None:
        return ours
    model.choices += ours.numel()
    model.flips += int((ours.sort(-1).values[:, :, None] != theirs[:, None, :]).all(-1).sum())
    return theirs if model.follow else ours


def route(model, x, layer):
    """[T, K] experts and their weights."""
    n_used, arch = int(model.get("expert_used_count")), model.arch
    score = x @ model.w("ffn_gate_inp.weight", layer).T
    if arch == "gpt-oss":  # the choice first, then the softmax of what was chosen
        score = score + model.w("ffn_gate_inp.bias", layer)
        chosen = choose(model, score, layer, n_used)
        return chosen, score.gather(1, chosen).softmax(-1)
    sigmoid = int(model.get("expert_gating_func", 1)) == 2
    p = score.sigmoid() if sigmoid else score.softmax(-1)
    bias = model.w("exp_probs_b.bias", layer)  # decides about the choice only
    chosen = choose(model, p if bias is None else p + bias, layer, n_used)
    weight = p.gather(1, chosen)
    if arch in ("llama", "qwen3moe") or (arch == "dots1" and model.get("expert_weights_norm", False)):
        weight = weight / weight.sum(-1, keepdim=True)
    return chosen, weight * float(model.get("expert_weights_scale", 1.0))


def one_expert(model, x, role, layer, e):
    name = f"blk.{layer}.{role}.weight"
    weight, to = model.w(name)[e], model.round_to[name]
    y = x @ weight.T if to is None else RoundedProduct.apply(x, weight, to)
    bias = model.w(f"{role}.bias", layer)
    return y if bias is None else y + bias[e]


def mixture(model, x, layer):
    chosen, weight = route(model, x, layer)
    out = torch.zeros_like(x)
    for e in range(int(model.get("expert_count"))):
        token, slot = (chosen == e).nonzero(as_tuple=True)
        if len(token) == 0:
            continue
        gate, up = (one_expert(model, x[token], role, layer, e) for role in ("ffn_gate_exps", "ffn_up_exps"))
        if model.arch == "gpt-oss":
            gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
            y = gate * torch.sigmoid(1.702 * gate) * (up + 1)
        else:
            y = F.silu(gate) * up
        y = one_expert(model, y, "ffn_down_exps", layer, e)
        out = out.index_add(0, token, y * weight[token, slot, None])
    if model.w("ffn_down_shexp.weight", layer) is not None:
        y = dense(model, x, layer, "_shexp")
        if model.w("ffn_gate_inp_shexp.weight", layer) is not None:
            y = y * torch.sigmoid(x @ model.w("ffn_gate_inp_shexp.weight", layer))[:, None]
        out = out + y
    return out


def feed_forward(model, x, layer):
    return (dense if model.w("ffn_gate_inp.weight", layer) is None else mixture)(model, x, layer)


def logits(model, tokens):
    x = model.w("token_embd.weight")[tokens]
    if model.gemma:
        x = x * math.sqrt(model.n_embd)
    for layer in range(model.n_layer):
        y = attention(model, rms_norm(model, x, "attn_norm.weight", layer), layer)
        if model.gemma:
            y = rms_norm(model, y, "post_attention_norm.weight", layer)
        x = x + y
        norm = "post_attention_norm" if model.arch == "gpt-oss" else "ffn_norm"
        y = feed_forward(model, rms_norm(model, x, norm + ".weight", layer), layer)
        if model.gemma:
            y = rms_norm(model, y, "post_ffw_norm.weight", layer)
        x = x + y
    x = rms_norm(model, x, "output_norm.weight")
    y = product(model, x, "token_embd.weight" if model.w("output.weight") is None else "output.weight")
    cap = float(model.get("final_logit_softcapping", 30.0 if model.arch == "gemma2" else 0.0))
    return torch.tanh(y / cap) * cap if cap > 0 else y


def read_dump(path):
    """[(name, [experts, n_out, n_in] f32)], {layer: [T, K] chosen experts}."""
    weights, chosen = [], {}
    with open(path, "rb") as f:
        def header(n):
            return f.read(64).split(b"\0")[0].decode(), struct.unpack("=%dq" % n, f.read(8 * n))

        for _ in range(struct.unpack("=i", f.read(4))[0]):
            name, shape = header(3)
            weights.append((name, np.frombuffer(f.read(4 * math.prod(shape)), dtype=np.float32).reshape(shape)))
        for _ in range(struct.unpack("=i", f.read(4))[0]):
            name, shape = header(2)
            ids = np.frombuffer(f.read(4 * math.prod(shape)), dtype=np.int32).reshape(shape)
            chosen[int(name.split(".")[1])] = torch.from_numpy(ids.astype(np.int64))
    return weights, chosen


def compare_one(name, ours, theirs):
    """(relative Frobenius error, relative error of the squared norm, name); zero must be met by exactly zero."""
    norm, error = theirs.norm().item(), (ours - theirs).norm().item()
    if norm == 0:
        return (0.0 if error == 0 else math.inf, 0.0, name)
    return error / norm, ours.norm().item() ** 2 / norm**2 - 1, name


def compare(model, weights):
    """Rows of compare_one for weights and for the experts that saw a token; names of experts that saw none; weights
    that the dump lacks."""
    rows, experts, unseen, missing = [], [], [], {n for n, w in model.weights.items() if w.requires_grad}
    for name, ours in weights:
        missing.discard(name)
        ours = torch.from_numpy(ours.copy()).to(model.dtype)
        theirs = model.weights[name].grad
        theirs = torch.zeros_like(model.weights[name]) if theirs is None else theirs
        rows.append(compare_one(name, ours, theirs.reshape(ours.shape)))
        for e in range(len(ours) if len(ours) > 1 else 0):
            row = compare_one(f"{name}[{e}]", ours[e], theirs[e])
            (experts if theirs[e].any() or row[0] > 0 else unseen).append(row)
    return rows, experts, unseen, missing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tokens")
    parser.add_argument("labels")
    parser.add_argument("gradients")
    parser.add_argument("--tol", type=float, default=1e-2)
    parser.add_argument("--expert-tol", type=float)
    parser.add_argument("--dtype", default="float64", choices=("float32", "float64"))
    parser.add_argument("--worst", type=int, default=8)
    parser.add_argument("--round", action="store_true")
    parser.add_argument("--follow", action="store_true")
    args = parser.parse_args()

    model = Model(args.model, getattr(torch, args.dtype), args.round)
    for name, weight in model.weights.items():
        weight.requires_grad_(weight.dim() >= 2 and name.endswith(".weight") and "ffn_gate_inp" not in name)
    gradients, model.chosen = read_dump(args.gradients)
    model.follow = args.follow
    tokens, labels = (torch.from_numpy(np.fromfile(p, dtype=np.int32)).long() for p in (args.tokens, args.labels))
    loss = F.cross_entropy(logits(model, tokens), labels, reduction="sum")
    loss.backward()
    rows, experts, unseen, missing = compare(model, gradients)
    rows.sort(reverse=True)
    experts.sort(reverse=True)
    errors = np.array([r[0] for r in rows])
    print(f"{args.model}: {model.arch}, {len(tokens)} tokens, loss {loss.item():.6f}, {len(rows)} weights")
    print(f"{'weight':32} {'relative error':>14} {'energy':>10}")
    for error, energy, name in rows[: args.worst] + experts[: args.worst]:
        print(f"{name:32} {error:14.3e} {energy:+10.2e}")
    good, text = not missing and errors.max() <= args.tol, ""
    if experts:
        bar = args.tol if args.expert_tol is None else args.expert_tol
        good = good and experts[0][0] <= bar
        text = (f", experts {experts[0][0]:.2e} (bar {bar:.0e}; {len(experts)} seen, {len(unseen)} unseen), "
                f"{model.flips} of {model.choices} choices differ{' (followed)' if args.follow else ''}")
    print(f"RESULT worst {errors.max():.2e} median {np.median(errors):.2e}{text} (bar {args.tol:.0e})")
    if missing:
        print("weights without a gradient in the dump: " + ", ".join(sorted(missing)))
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
