#!/usr/bin/env python3
"""Does our own judge see the truth that prediction_truth.py computes? One tensor at a time is quantized and dequantized again
in an F32 copy of the model, which `optimum eval` judges against the F32 model; PyTorch does the same on the same tokens.

    prediction_eval.py MODEL.gguf PROFILE.json TEXT NAME=TYPE... --ggml LIBGGML_BASE.so
                       [--optimum build/optimum] [--stats STATS.gguf] [--chunks 24] [--threads N]
                       [--perplexity LLAMA_PERPLEXITY] [--floor 0.01] [--truth TRUTH.json] [--out OUT.json]

NAME=TYPE: blk.0.ffn_down.weight=q4_K. Rounding uses ggml's own function and the importance of --stats (default: beside the
profile), as prediction_truth.py does. `optimum eval --exact` takes the first --chunks windows of 512 tokens of TEXT, PyTorch the
tokens that eval's reference file names, without the last of each window, which predicts nothing: the same positions.
--perplexity: llama-perplexity judges the pairs above --floor nats as well; it scores the second half of each window, so it
is compared with `optimum eval --score second-half`. --truth: a column more, what prediction_truth.py found on other windows.
The copies are made in TMPDIR: about three times the model in F32. Needs torch, gguf, numpy.
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import gguf
import numpy as np

from prediction_truth import Quantizer, importance_of

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stderr}")
    return result.stdout


def reference_tokens(path):
    """Tokens [windows, tokens] of a reference file (docs/formats.md)."""
    with open(path, "rb") as file:
        head = file.read(512)
        assert head[:8] == b"OMREF001", path
        windows, tokens = np.frombuffer(head, "<u4", 2, 16)
        return np.fromfile(file, np.int32, int(windows) * int(tokens)).reshape(windows, tokens)


class Judges:
    """The files of one run, and what is run on them. `changed` is the copy in which one tensor is replaced."""

    def __init__(self, args, folder):
        self.args, self.threads = args, str(args.threads)
        self.f32, self.changed, self.reference, self.exact, self.base, self.tokens, self.torch = (
            os.path.join(folder, name)
            for name in ("f32.gguf", "changed.gguf", "reference.omref", "exact.omref", "base.kld", "tokens.bin", "torch.json")
        )
        run(sys.executable, os.path.join(ROOT, "tests", "grad", "to_f32.py"), args.model, self.f32)
        shutil.copyfile(self.f32, self.changed)
        self.optimum("--reference", self.f32, "--reference-out", self.reference)
        self.optimum("--reference", self.f32, "--reference-out", self.exact, "--exact")
        tokens = reference_tokens(self.reference)
        tokens[:, :-1].tofile(self.tokens)
        self.window = tokens.shape[1] - 1

    def optimum(self, *options):
        return json.loads(run(self.args.optimum, "eval", *options, "--text", self.args.text, "--chunks", str(self.args.chunks),
                              "--threads", self.threads, "--no-speed", "--quiet", "--json"))

    def eval_exact(self):
        return self.optimum(self.changed, "--reference", self.exact, "--exact")["kld"]["mean"]

    def eval_half(self):
        """As llama-perplexity: its positions, and llama.cpp's defaults."""
        return self.optimum(self.changed, "--reference", self.reference, "--score", "second-half")["kld"]["mean"]

    def perplexity(self):
        command = [self.args.perplexity, "-f", self.args.text, "-c", "512", "--chunks", str(self.args.chunks), "-t",
                   self.threads, "--kl-divergence-base", self.base]
        if not os.path.exists(self.base):
            run(*command, "-m", self.f32)
        return float(re.search(r"Mean\s+KLD:\s+([\d.e+-]+)", run(*command, "-m", self.changed, "--kl-divergence")).group(1))

    def pytorch(self, pairs, stats):
        """{tensor: {type: nats}} on the tokens of the reference file."""
        run(sys.executable, os.path.join(ROOT, "bench", "prediction_truth.py"), self.f32, stats, self.tokens, self.torch,
            "--ggml", self.args.ggml, "--window", str(self.window), "--windows", str(self.args.chunks), "--batch", "4",
            "--device", "cpu", "--pairs", ",".join(f"{name}={kind}" for name, kind in pairs))
        return json.load(open(self.torch))


def measure(judges, pairs, stats_path):
    """One row a pair, judged by all but PyTorch."""
    args, quantizer = judges.args, Quantizer(judges.args.ggml)
    stats = {t.name: t.data for t in gguf.GGUFReader(stats_path).tensors}
    source = {t.name: t.data for t in gguf.GGUFReader(judges.f32).tensors}
    target = {t.name: t.data for t in gguf.GGUFReader(judges.changed, "r+").tensors}
    rows = []
    for name, kind in pairs:
        start = time.time()
        weights = np.ascontiguousarray(source[name])
        target[name][...] = quantizer.round_trip(weights, kind, importance_of(stats, name, weights.shape))
        row = {"tensor": name, "type": kind, "eval": judges.eval_exact()}
        if args.perplexity and row["eval"] > args.floor:
            row |= {"eval_half": judges.eval_half(), "perplexity": judges.perplexity()}
        target[name][...] = weights
        rows.append(row)
        print(f"{name} {kind} {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    return rows


def print_table(rows):
    heads = [("predicted", "predicted"), ("torch", "PyTorch"), ("eval", "eval"), ("perplexity", "llama-ppl"),
             ("eval_half", "eval half"), ("truth", "other")]
    ratios = [("eval", "torch", "eval/PyTorch"), ("perplexity", "eval_half", "ppl/eval"), ("predicted", "eval", "pred./eval")]
    heads = [(key, title) for key, title in heads if any(row.get(key) is not None for row in rows)]
    ratios = [r for r in ratios if any(row.get(r[0]) is not None for row in rows)]
    print(f"{'tensor':26} {'type':7}" + "".join(f" {t:>10}" for _, t in heads) + "".join(f" {t:>12}" for *_, t in ratios))
    values = {title: [] for *_, title in ratios}
    for row in rows:
        line = f"{row['tensor'].removesuffix('.weight'):26} {row['type']:7}"
        for key, _ in heads:
            line += f" {row[key]:10.3e}" if row.get(key) is not None else f" {'-':>10}"
        for over, under, title in ratios:
            if row.get(over) is None or not row.get(under):
                line += f" {'-':>12}"
                continue
            values[title].append(row[over] / row[under])
            line += f" {values[title][-1]:12.4f}"
        print(line)
    for title, of in values.items():
        if of:
            print(f"{title}: {len(of)} pairs, median {statistics.median(of):.4f}, from {min(of):.4f} to {max(of):.4f}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "profile", "text"):
        p.add_argument(name)
    p.add_argument("pairs", nargs="+", metavar="NAME=TYPE")
    p.add_argument("--ggml", required=True)
    p.add_argument("--optimum", default=os.path.join(ROOT, "build", "optimum"))
    p.add_argument("--stats")
    p.add_argument("--chunks", type=int, default=24)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--perplexity")
    p.add_argument("--floor", type=float, default=0.01)
    p.add_argument("--truth")
    p.add_argument("--out")
    args = p.parse_args()
    pairs = [pair.split("=") for pair in args.pairs]
    predicted = {t["name"]: t["types"] for t in json.load(open(args.profile))["tensors"]}
    for name, kind in pairs:
        if kind not in predicted.get(name, {}):
            sys.exit(f"{args.profile} has no cost of {name} in {kind}")
    stats = args.stats or args.profile.removesuffix(".json") + ".stats.gguf"
    other = json.load(open(args.truth)) if args.truth else {}
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # PyTorch's
    with tempfile.TemporaryDirectory() as folder:
        judges = Judges(args, folder)
        truth = judges.pytorch(pairs, stats)
        rows = measure(judges, pairs, stats)
    for row in rows:
        name, kind = row["tensor"], row["type"]
        row |= {"predicted": predicted[name][kind]["nats"], "torch": truth[name][kind], "truth": other.get(name, {}).get(kind)}
    print_table(rows)
    if args.out:
        json.dump(rows, open(args.out, "w"), indent=1)


if __name__ == "__main__":
    main()
