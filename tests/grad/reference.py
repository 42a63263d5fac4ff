#!/usr/bin/env python3
"""Compare the gradients of dump_gradients with PyTorch's.

    reference.py MODEL.gguf TOKENS.bin LABELS.bin GRADIENTS.bin [--tol 1e-2] [--dtype float64] [--worst 8] [--round]

A plain decoder is built from the GGUF's metadata (weights dequantized by gguf-py, arithmetic in float64), the loss
is L = sum over positions of -log p(label), and autograd gives dL/dW. For every weight of the dump the relative
Frobenius error |ours - torch| / |torch| is computed; a table shows the worst. Exit status 1 when one is above --tol.

It shares nothing with Optimum or llama.cpp but the file: a second opinion on both.

llama.cpp's CPU kernels round the input of a product with a 16-bit weight to that type, which moves the point where the
gradient is taken by about 1e-2. --round does the same in the forward pass here, to tell this from an error of ours.
"""
import argparse
import math
import struct
import sys

import gguf
import numpy as np
import torch
import torch.nn.functional as F

ARCHS = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")


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
        period = {"gemma2": 2, "gemma3": 6}.get(self.arch, 0)
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
    q, k, v = q.reshape(T, H, D), k.reshape(T, K, D), v.reshape(T, K, D)
    if model.w("attn_q_norm.weight", layer) is not None:
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
    p = score.masked_fill(hidden, -math.inf).softmax(-1)
    y = torch.einsum("hqk,khd->qhd", p, v).reshape(T, H * D)
    return linear(model, y, "attn_output", layer)


def feed_forward(model, x, layer):
    if model.arch == "phi3":
        gate, up = linear(model, x, "ffn_up", layer).chunk(2, -1)
    else:
        gate, up = linear(model, x, "ffn_gate", layer), linear(model, x, "ffn_up", layer)
    gate = F.gelu(gate, approximate="tanh") if model.gemma else F.silu(gate)
    return linear(model, gate * up, "ffn_down", layer)


def logits(model, tokens):
    x = model.w("token_embd.weight")[tokens]
    if model.gemma:
        x = x * math.sqrt(model.n_embd)
    for layer in range(model.n_layer):
        y = attention(model, rms_norm(model, x, "attn_norm.weight", layer), layer)
        if model.gemma:
            y = rms_norm(model, y, "post_attention_norm.weight", layer)
        x = x + y
        y = feed_forward(model, rms_norm(model, x, "ffn_norm.weight", layer), layer)
        if model.gemma:
            y = rms_norm(model, y, "post_ffw_norm.weight", layer)
        x = x + y
    x = rms_norm(model, x, "output_norm.weight")
    y = product(model, x, "token_embd.weight" if model.w("output.weight") is None else "output.weight")
    cap = float(model.get("final_logit_softcapping", 30.0 if model.arch == "gemma2" else 0.0))
    return torch.tanh(y / cap) * cap if cap > 0 else y


def read_dump(path):
    """Yields (name, [n_out, n_in] f32)."""
    with open(path, "rb") as f:
        (n,) = struct.unpack("=i", f.read(4))
        for _ in range(n):
            name = f.read(64).split(b"\0")[0].decode()
            n_out, n_in = struct.unpack("=qq", f.read(16))
            yield name, np.frombuffer(f.read(4 * n_out * n_in), dtype=np.float32).reshape(n_out, n_in)


def compare(model, path):
    """[(relative Frobenius error, relative error of the squared norm, name)], and weights the dump lacks."""
    rows, missing = [], {n for n, w in model.weights.items() if w.requires_grad}
    for name, ours in read_dump(path):
        theirs = model.weights[name].grad
        missing.discard(name)
        a = torch.from_numpy(ours.copy()).to(theirs.dtype)
        norm = theirs.norm().item()
        error = (a - theirs).norm().item()
        rows.append((error / norm if norm > 0 else error, a.norm().item() ** 2 / max(norm**2, 1e-300) - 1, name))
    return rows, missing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tokens")
    parser.add_argument("labels")
    parser.add_argument("gradients")
    parser.add_argument("--tol", type=float, default=1e-2)
    parser.add_argument("--dtype", default="float64", choices=("float32", "float64"))
    parser.add_argument("--worst", type=int, default=8)
    parser.add_argument("--round", action="store_true")
    args = parser.parse_args()

    model = Model(args.model, getattr(torch, args.dtype), args.round)
    for name, weight in model.weights.items():
        weight.requires_grad_(weight.dim() == 2 and name.endswith(".weight"))
    tokens, labels = (torch.from_numpy(np.fromfile(p, dtype=np.int32)).long() for p in (args.tokens, args.labels))
    loss = F.cross_entropy(logits(model, tokens), labels, reduction="sum")
    loss.backward()
    rows, missing = compare(model, args.gradients)
    rows.sort(reverse=True)
    errors = np.array([r[0] for r in rows])
    print(f"{args.model}: {model.arch}, {len(tokens)} tokens, loss {loss.item():.6f}, {len(rows)} weights")
    print(f"{'weight':32} {'relative error':>14} {'energy':>10}")
    for error, energy, name in rows[: args.worst]:
        print(f"{name:32} {error:14.3e} {energy:+10.2e}")
    print(f"RESULT worst {errors.max():.2e} median {np.median(errors):.2e} (bar {args.tol:.0e})")
    if missing:
        print("weights without a gradient in the dump: " + ", ".join(sorted(missing)))
    if missing or not errors.max() <= args.tol:
        sys.exit(1)


if __name__ == "__main__":
    main()
