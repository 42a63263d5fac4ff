#!/usr/bin/env python3
"""Times Optimum's stages and llama.cpp's own tools on one model and text; see bench/README.md.

    bench.py PROGRAM MODEL TEXT TOOLS FOLDER     run, write FOLDER/bench.json, print a table
    bench.py --compare OLD.json NEW.json         print ratios
"""
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = int(os.environ.get("RUNS", "3"))
WINDOWS, CHUNKS = 16, 8


def processor():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    try:
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return platform.processor() or "unknown"


def run_once(command, log):
    """Seconds and peak resident bytes of one run; stops the benchmark when it fails."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    if child.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))} ended with {child.returncode}; log: {log.name}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_maxrss * unit


def measure(folder, name, command, runs=RUNS):
    with open(folder / f"{name}.log", "wb") as log:
        samples = [run_once(command, log) for _ in range(runs)]
    seconds = sorted(s for s, _ in samples)
    result = {
        "seconds": statistics.median(seconds), "seconds_min": seconds[0], "seconds_max": seconds[-1],
        "peak_bytes": max(b for _, b in samples), "runs": runs,
    }
    print(f"{name:28} {result['seconds']:9.2f} s  ({seconds[0]:.2f} … {seconds[-1]:.2f})"
          f"  {result['peak_bytes'] / 1e6:8.0f} MB", flush=True)
    return result


def run(program, model, text, tools, folder):
    folder.mkdir(parents=True, exist_ok=True)
    profile, allocation, out = folder / "profile.json", folder / "allocation.json", folder / "opt.gguf"
    imatrix, preset, base = folder / "imatrix.gguf", folder / "preset.gguf", folder / "base.logits"
    results = {}

    def step(name, *command, runs=RUNS):
        results[name] = measure(folder, name, [str(c) for c in command], runs)

    step("optimum inspect", program, "inspect", model, "--json")
    step("optimum profile", program, "profile", model, "--calib", text, "-o", profile, "--windows", WINDOWS,
         "--restart", runs=1)
    step("llama-imatrix", tools / "llama-imatrix", "-m", model, "-f", text, "-o", imatrix, "--chunks", WINDOWS,
         "-c", 512, "--no-ppl", runs=1)
    step("optimum allocate", program, "allocate", profile, "--bpw", 5.3, "-o", allocation)
    step("optimum quantize", program, "quantize", model, "--allocation", allocation, "-o", out)
    step("llama-quantize Q4_K_M", tools / "llama-quantize", "--allow-requantize", "--imatrix", imatrix, model, preset,
         "Q4_K_M")
    step("optimum eval", program, "eval", out, "--reference", model, "--text", text, "--chunks", CHUNKS, "--no-speed")
    perplexity = [tools / "llama-perplexity", "-f", text, "--chunks", CHUNKS, "-c", 512]
    step("llama-perplexity base", *perplexity, "-m", model, "--kl-divergence-base", base)
    step("llama-perplexity kld", *perplexity, "-m", out, "--kl-divergence-base", base, "--kl-divergence")

    document = {
        "schema": "optimum.bench/1",
        "processor": processor(), "cores": os.cpu_count(), "system": platform.system(),
        "version": subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip(),
        "model_sha256": hashlib.sha256(Path(model).read_bytes()).hexdigest(),
        "windows": WINDOWS, "chunks": CHUNKS, "results": results,
    }
    (folder / "bench.json").write_text(json.dumps(document, indent=1) + "\n")
    for scratch in (out, preset, base):
        scratch.unlink(missing_ok=True)


def compare(old_path, new_path):
    old, new = (json.loads(Path(p).read_text()) for p in (old_path, new_path))
    for key in ("processor", "cores", "model_sha256", "windows", "chunks"):
        if old[key] != new[key]:
            sys.exit(f"error: the two files differ in {key} ({old[key]} and {new[key]}): not comparable")
    for name, b in new["results"].items():
        a = old["results"].get(name)
        if a is None:
            continue
        overlap = a["seconds_min"] <= b["seconds_max"] and b["seconds_min"] <= a["seconds_max"]
        verdict = "noise" if overlap else ("faster" if b["seconds"] < a["seconds"] else "SLOWER")
        print(f"{name:28} {a['seconds']:9.2f} s -> {b['seconds']:9.2f} s  x{b['seconds'] / a['seconds']:.3f}  {verdict}")


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "--compare":
        compare(sys.argv[2], sys.argv[3])
    elif len(sys.argv) == 6:
        program, model, text, tools, folder = sys.argv[1:]
        run(program, model, text, Path(tools), Path(folder))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
