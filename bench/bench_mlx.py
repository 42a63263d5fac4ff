#!/usr/bin/env python3
"""Writing for MLX: Optimum against mlx_lm.convert on the same model, threads and machine, in turns.

    bench_mlx.py HF_DIR PROFILE.json [--runs 3] [--threads 2]

PROFILE.json of that model, made for MLX. Uniform 4 bits in groups of 64: `optimum quantize --round plain`, with the search, and
`mlx_lm.convert -q`. Prints the median wall and processor time, the ratio to convert, and peaks of resident and (Linux) anonymous
memory. Environment: OPTIMUM (the program, default build/optimum), OPTIMUM_PYTHON (a Python with mlx-lm, default this one).
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

OPTIMUM = os.environ.get("OPTIMUM", "build/optimum")
PYTHON = os.environ.get("OPTIMUM_PYTHON", sys.executable)


def watch(pid, peak, stop):
    """Highest RssAnon of a process, looked at every millisecond or so."""
    while not stop.is_set():
        try:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    peak[0] = max(peak[0], int(line.split()[1]))
        except OSError:
            return
        time.sleep(0.001)


def run(command, environment):
    start, peak, stop = time.monotonic(), [0], threading.Event()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        watcher = threading.Thread(target=watch, args=(child.pid, peak, stop))
        watcher.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        stop.set()
        watcher.join()
        if child.returncode != 0:
            log.seek(0)
            sys.exit(f"error: {' '.join(map(str, command))}\n{log.read().decode(errors='replace')[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, peak[0] / 1024


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("profile")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": str(a.threads), "OPTIMUM_NO_HASH_CACHE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        plan = f"{folder}/plan.json"
        subprocess.run([OPTIMUM, "allocate", a.profile, "--to", "mlx", "--plan", "mlx:uniform_4", "-o", plan, "-q"], check=True,
                       stdout=subprocess.DEVNULL)
        ways = {
            "plain": lambda out: [OPTIMUM, "quantize", a.model, "-a", plan, "-o", out, "--round", "plain", "-t", a.threads],
            "search": lambda out: [OPTIMUM, "quantize", a.model, "-a", plan, "-o", out, "-t", a.threads],
            "mlx_lm.convert": lambda out: [PYTHON, "-m", "mlx_lm", "convert", "--hf-path", a.model, "--mlx-path", out, "-q"],
        }
        figures = {name: [] for name in ways}
        for i in range(a.runs):
            for name, command in ways.items():
                figures[name].append(run(command(f"{folder}/{name}-{i}"), environment))
    middle = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in figures.items()}
    print(f"{'':16} {'wall s':>8} {'cpu s':>8} {'wall':>6} {'cpu':>6} {'RSS MiB':>9} {'anonymous':>9}")
    for name, (wall, cpu, rss, anonymous) in middle.items():
        base = middle["mlx_lm.convert"]
        print(f"{name:16} {wall:8.2f} {cpu:8.2f} {wall / base[0]:6.2f} {cpu / base[1]:6.2f} {rss:9.1f} {anonymous:9.1f}")


if __name__ == "__main__":
    main()
