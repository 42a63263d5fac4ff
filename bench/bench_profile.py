#!/usr/bin/env python3
"""profile against llama.cpp's tools in one run: the pass against llama-imatrix on the same tokens, the table of costs
against llama-quantize once per candidate type, and the peak memory against what was stated before.

    bench_profile.py MODEL.gguf TEXT.txt [--windows 16] [--threads N] [--no-costs]

Environment: OPTIMUM (default build/optimum), OPTIMUM_LLAMA_BIN (folder of llama.cpp's tools). Exit status 1 when a bar
is missed: pass <= 5 x llama-imatrix (6 x for a mixture of experts, whose routers are measured first), costs <= 1/4 of llama-quantize, peak <= file + 1 GiB + tape and stated within 20 %.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPTIMUM = os.environ.get("OPTIMUM", "build/optimum")
TOOLS = Path(os.environ.get("OPTIMUM_LLAMA_BIN", ""))
FTYPES = {"q2_K": "Q2_K", "q3_K": "Q3_K_S", "q4_K": "Q4_K_S", "q5_K": "Q5_K_S", "q6_K": "Q6_K"}


def run(command):
    """(seconds, peak resident bytes, stdout)"""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        if os.waitstatus_to_exitcode(status) != 0:
            sys.exit(f"error: {' '.join(map(str, command))}")
        out.seek(0)
        return time.monotonic() - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), out.read().decode()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("--windows", type=int, default=16)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--no-costs", action="store_true")
    a = p.parse_args()
    missed = []

    def line(what, ours, theirs, bar, unit="s"):
        ratio = ours / theirs
        missed.extend([what] if ratio > bar else [])
        print(f"{what:44} {ours:10.2f} {theirs:10.2f} {unit:3} {ratio:7.3f}  (bar {bar:g}){'  MISSED' if ratio > bar else ''}", flush=True)

    with tempfile.TemporaryDirectory() as tmp:
        imatrix = Path(tmp) / "imatrix.gguf"
        theirs, _, _ = run([TOOLS / "llama-imatrix", "-m", a.model, "-f", a.text, "--chunks", a.windows, "-o", Path(tmp) / "theirs.gguf", "-t",
                            a.threads])
        profile = Path(tmp) / "profile.json"
        _, peak, out = run([OPTIMUM, "profile", a.model, "--calib", a.text, "--windows", a.windows, "--threads", a.threads,
                            "-o", profile, "--imatrix-out", imatrix, "--json"])
        result = json.loads(out)
        document = json.loads(profile.read_text())
        print(f"{'':44} {'Optimum':>10} {'other':>10} {'':3} {'ratio':>7}")
        bar = 6 if any(t["experts"] > 1 for t in document["tensors"]) else 5
        line(f"pass / llama-imatrix, {a.windows} windows", result["pass_seconds"], theirs, bar)
        if not a.no_costs:
            total = 0.0
            for kind in sorted({t for u in document["tensors"] for t in u["types"]} - {"f32", "f16", "bf16"}):
                total += run([TOOLS / "llama-quantize", "--pure", "--allow-requantize", "--imatrix", imatrix, a.model,
                              Path(tmp) / "q.gguf", FTYPES.get(kind, kind.upper()), a.threads])[0]
            line("costs / llama-quantize once per type", result["costs_seconds"], total, 0.25)
        file_bytes, tape = os.path.getsize(a.model), result["tape_bytes"]
        line("peak / (file + 1 GiB + tape)", peak / 1e6, (file_bytes + (1 << 30) + tape) / 1e6, 1, "MB")
        stated = result["predicted_peak_bytes"]
        line("peak memory stated before / measured", stated / 1e6, peak / 1e6, 1.2, "MB")
        line("peak memory measured / stated before", peak / 1e6, stated / 1e6, 1.2, "MB")
    if missed:
        sys.exit("missed: " + ", ".join(missed))


if __name__ == "__main__":
    main()
