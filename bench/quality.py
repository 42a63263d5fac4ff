#!/usr/bin/env python3
"""Quality at equal bytes: llama-quantize's presets with an imatrix against Optimum at each preset's file size, all files
judged by llama-perplexity --kl-divergence.

    quality.py MODEL.gguf CALIB.txt VALID.txt FOLDER [--presets Q2_K,Q3_K_M] [--against IQ2_XS,IQ3_M]
               [--methods mopeq,frequency] [--chunks 100] [--windows 96] [--threads N]

Environment: OPTIMUM (the program, default build/optimum), OPTIMUM_LLAMA_BIN (folder of llama.cpp's tools). Presets of
--against are judged too, and no file of Optimum may be worse than a preset of equal or fewer bytes, nor than --methods of
`optimum allocate` at the same size. Everything is kept
in FOLDER; files that exist are not made again. Prints one table and writes FOLDER/quality.json.
"""
import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

OPTIMUM = os.environ.get("OPTIMUM", "build/optimum")
TOOLS = Path(os.environ.get("OPTIMUM_LLAMA_BIN", ""))


def call(command, log):
    with open(log, "ab") as f:
        if subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=f, stderr=f).returncode != 0:
            sys.exit(f"error: {' '.join(map(str, command))}\n" + Path(log).read_text(errors="replace")[-2000:])


def once(path, command, log):
    if not Path(path).exists():
        call(command, log)
    return path


class Bench:
    def __init__(self, a):
        self.a, self.dir = a, Path(a.folder)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.log = self.dir / "log.txt"
        t = ["-t", a.threads]
        self.profile = once(self.dir / "profile.json",
                            [OPTIMUM, "profile", a.model, "--calib", a.calib, "--windows", a.windows, "--threads", a.threads,
                             "-o", self.dir / "profile.json"], self.log)
        self.imatrix = once(self.dir / "imatrix.gguf",
                            [TOOLS / "llama-imatrix", "-m", a.model, "-f", a.calib, "--chunks", a.windows, "-o",
                             self.dir / "imatrix.gguf", "--no-ppl"] + t, self.log)
        self.base = once(self.dir / "base.kld",
                         [TOOLS / "llama-perplexity", "-m", a.model, "-f", a.valid, "-c", 512, "--chunks", a.chunks,
                          "--kl-divergence-base", self.dir / "base.kld"] + t, self.log)

    def preset(self, name):
        return once(self.dir / f"{name}.gguf", [TOOLS / "llama-quantize", "--imatrix", self.imatrix, self.a.model,
                                                self.dir / f"{name}.gguf", name, self.a.threads], self.log)

    def ours(self, name, size, method="optimal"):
        stem = "opt" if method == "optimal" else method
        plan, out = self.dir / f"{stem}-{name}.json", self.dir / f"{stem}-{name}.gguf"
        if not out.exists():
            call([OPTIMUM, "allocate", self.profile, "--method", method, "--size", size, "-o", plan], self.log)
            call([OPTIMUM, "quantize", self.a.model, "--allocation", plan, "-o", out, "--threads", self.a.threads], self.log)
        if out.stat().st_size > size:
            sys.exit(f"error: {out} has {out.stat().st_size} bytes, the budget was {size}")
        return out, json.loads(plan.read_text())["predicted_nats"]

    def judge(self, path):
        """(mean KLD, standard error) by llama-perplexity."""
        record = Path(str(path) + ".kld.txt")
        if not record.exists():
            with open(str(record) + ".part", "wb") as f:
                if subprocess.run([TOOLS / "llama-perplexity", "-m", path, "-f", self.a.valid, "-c", "512", "--chunks",
                                   str(self.a.chunks), "--kl-divergence-base", self.base, "--kl-divergence", "-t",
                                   str(self.a.threads)], stdin=subprocess.DEVNULL, stdout=f, stderr=f).returncode != 0:
                    sys.exit(f"error: llama-perplexity failed on {path}: {record}.part")
            os.rename(str(record) + ".part", record)
        m = re.search(r"Mean\s+KLD:\s*([-\d.eE+]+)\s*±\s*([-\d.eE+]+)", record.read_text(errors="replace"))
        return float(m[1]), float(m[2])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calib", "valid", "folder"):
        p.add_argument(name)
    p.add_argument("--presets", default="Q2_K,Q3_K_M,Q4_K_M,Q5_K_M,Q6_K")
    p.add_argument("--against", default="IQ2_XXS,IQ2_XS,IQ2_M,IQ3_XXS,IQ3_XS,IQ3_M,IQ4_XS,Q2_K_S,Q3_K_S,Q3_K_L,Q4_K_S,Q5_K_S")
    p.add_argument("--methods", default="")
    p.add_argument("--chunks", type=int, default=100)
    p.add_argument("--windows", type=int, default=96)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    b = Bench(p.parse_args())
    rows, others = [], []
    for name in b.a.presets.split(","):
        path = b.preset(name)
        size = path.stat().st_size
        others.append((size, b.judge(path)[0], name))
        out, predicted = b.ours(name, size)
        kld, error = b.judge(out)
        methods = {m: b.judge(b.ours(name, size, m)[0])[0] for m in filter(None, b.a.methods.split(","))}
        rows.append({"size_of": name, "budget": size, "bytes": out.stat().st_size, "preset_kld": b.judge(path)[0],
                     "preset_stderr": b.judge(path)[1], "kld": kld, "stderr": error, "predicted": predicted,
                     "methods": methods})
    for name in filter(None, b.a.against.split(",")):
        path = b.preset(name)
        others.append((path.stat().st_size, b.judge(path)[0], name))
    print(f"{'size of':8} {'budget':>11} {'unused':>7} {'preset KLD':>19} {'Optimum KLD':>19} {'ratio':>6} {'predicted':>9}  "
          "best preset of equal or fewer bytes")
    worse = 0
    for r in rows:
        best = min((k, n, s) for s, k, n in others if s <= r["budget"])
        r["best_preset"], r["best_preset_kld"] = best[1], best[0]
        worse += r["kld"] > min([best[0], *r["methods"].values()])
        print(f"{r['size_of']:8} {r['budget']:11} {1 - r['bytes'] / r['budget']:7.3%} {r['preset_kld']:10.6f} ±{r['preset_stderr']:.6f} "
              f"{r['kld']:10.6f} ±{r['stderr']:.6f} {r['kld'] / r['preset_kld']:6.3f} {r['predicted']:9.6f}  "
              f"{best[1]} {best[0]:.6f}{'  WORSE' if r['kld'] > best[0] else ''}"
              + "".join(f"  {m} {k:.6f}" for m, k in r["methods"].items()))
    (b.dir / "quality.json").write_text(json.dumps({"rows": rows, "others": others}, indent=1))
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()
