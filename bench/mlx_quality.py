#!/usr/bin/env python3
"""Quality at equal bytes: what mlx_lm.convert makes (uniform 4-bit, its mixed recipes) against Optimum at each one's bytes of
model*.safetensors, all judged by mlx_judge.py: logits of real, unmodified mlx-lm.

    mlx_quality.py HF_DIR CALIB.txt VALID.txt FOLDER [--recipes u4,mixed_4_6] [--against DIR,DIR] [--windows 40]
                   [--profile profile.json]

Environment: OPTIMUM (the program, default build/optimum), OPTIMUM_PYTHON (a Python with mlx-lm, default this one). --against
names directories made otherwise (dynamic_quant, dwq): ours is made at their bytes too. Everything is kept in FOLDER; what
exists is not made again. Prints one table, and what was predicted.
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

OPTIMUM = os.environ.get("OPTIMUM", "build/optimum")
PYTHON = os.environ.get("OPTIMUM_PYTHON", sys.executable)
JUDGE = Path(__file__).with_name("mlx_judge.py")


def call(command, log):
    with open(log, "ab") as f:
        if subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=f, stderr=f).returncode != 0:
            sys.exit(f"error: {' '.join(map(str, command))}\n" + Path(log).read_text(errors="replace")[-2000:])


def weights(folder):
    return sum(p.stat().st_size for p in Path(folder).glob("model*.safetensors"))


class Bench:
    def __init__(self, a):
        self.a, self.dir = a, Path(a.folder)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.log = self.dir / "log.txt"
        self.profile = Path(a.profile or self.dir / "profile.json")
        if not self.profile.exists():
            call([OPTIMUM, "profile", a.model, "--calib", a.calib, "--to", "mlx", "-o", self.profile], self.log)

    def theirs(self, recipe):
        out = self.dir / recipe
        if not out.exists():
            how = ["--q-bits", "4"] if recipe == "u4" else ["--quant-predicate", recipe]
            call([PYTHON, "-m", "mlx_lm", "convert", "--hf-path", self.a.model, "--mlx-path", out, "-q", "--q-group-size", "64",
                  *how], self.log)
        return out

    def ours(self, name, size):
        plan, out = self.dir / f"opt-{name}.json", self.dir / f"opt-{name}"
        if not out.exists():
            call([OPTIMUM, "allocate", self.profile, "--to", "mlx", "--size", size, "-o", plan], self.log)
            call([OPTIMUM, "quantize", self.a.model, "-a", plan, "-o", out], self.log)
        if weights(out) > size:
            sys.exit(f"error: {out} is larger than {name}")
        return out, json.loads(plan.read_text())["predicted_nats"]

    def judge(self, folders):
        figures = self.dir / "judged.json"
        done = json.loads(figures.read_text()) if figures.exists() else {}
        new = [f for f in folders if f"{Path(self.a.model).name}/{f.name}" not in done]
        if new:
            call([PYTHON, JUDGE, "--reference", self.a.model, "--text", self.a.valid, "--windows", self.a.windows, "--cache",
                  self.dir / "cache", "--json", figures, *new], self.log)
        done = json.loads(figures.read_text())
        return {f.name: done[f"{Path(self.a.model).name}/{f.name}"]["windows"][str(self.a.windows)] for f in folders}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("calib")
    p.add_argument("valid")
    p.add_argument("folder")
    p.add_argument("--recipes", default="u4,mixed_4_6,mixed_3_6,mixed_3_4")
    p.add_argument("--against", default="")
    p.add_argument("--windows", type=int, default=40)
    p.add_argument("--profile")
    a = p.parse_args()
    bench = Bench(a)
    pairs = []
    for folder in [bench.theirs(r) for r in a.recipes.split(",") if r] + [Path(d) for d in a.against.split(",") if d]:
        pairs.append((folder, weights(folder), *bench.ours(folder.name, weights(folder))))
    figures = bench.judge([f for pair in pairs for f in (pair[0], pair[2])])
    print(f"{'recipe':24} {'bytes':>12} {'KLD':>19} {'Optimum':>19} {'ratio':>6} {'predicted':>9}")
    for theirs, size, ours, predicted in pairs:
        x, y = figures[theirs.name], figures[ours.name]
        print(f"{theirs.name:24} {size:12} {x['kld_mean']:9.5f} ± {x['kld_stderr']:.5f} {y['kld_mean']:9.5f} ± "
              f"{y['kld_stderr']:.5f} {y['kld_mean'] / x['kld_mean']:6.3f} {predicted:9.5f}")


if __name__ == "__main__":
    main()
