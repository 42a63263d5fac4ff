"""Runs an MLX model in mlx-lm as it is and says how fast it is, and how well it predicts. Embedded in Optimum; standard
input is one JSON object

    {"model": DIR or null, "prompt": [ids], "probe": how many of them are one text, "answer": tokens,
     "seconds": time that one measurement may take, "module": text of the only "model_file" that is run}

and standard output one JSON object. Without a model it only says which mlx-lm there is."""
import importlib.metadata
import importlib.util
import json
import math
import sys
import time
from pathlib import Path

# Not from the folder that Optimum was started in.
sys.path = [p for p in sys.path if p]


def finish(**members):
    print(json.dumps({"schema": "optimum.mlx_speed/1", **members}))
    sys.exit(0)


request = json.load(sys.stdin)
if importlib.util.find_spec("mlx_lm") is None:
    finish(missing=sys.executable)
version = importlib.metadata.version("mlx-lm")
if request["model"] is None:
    finish(runtime="mlx_lm " + version)

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx_lm  # noqa: E402



def trust(directory):
    """A model of Optimum's with experts in banks brings Optimum's own module. Nobody else's is run."""
    name = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("model_file")
    if name is not None and (directory / name).read_bytes() == request["module"].encode():
        return {"trust_remote_code": True}
    return {}


try:
    model, tokenizer = mlx_lm.load(request["model"], **trust(Path(request["model"])))
except Exception as e:  # whatever it is, the user must read it
    finish(error=" ".join(f"{type(e).__name__}: {e}".split()))
tokenizer._eos_token_ids = set()  # as mlx_lm.benchmark: an answer of the full length


def measure(n_prompt, n_answer):
    """Seconds to the first token, seconds for the rest."""
    prompt = (request["prompt"] * (n_prompt // len(request["prompt"]) + 1))[:n_prompt]
    start, first = time.perf_counter(), None
    for _ in mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=n_answer + 1):
        first = first or time.perf_counter()
    return first - start, time.perf_counter() - first


def warm_up():
    """Seconds a token. mlx's CPU backend cannot multiply everything in 16 bits: F32 then."""
    try:
        measure(8, 1)
        changed = False
    except (RuntimeError, ValueError):
        model.set_dtype(mx.float32)
        measure(8, 1)
        changed = True
    prefill, decode = measure(8, 1)
    return prefill / 8, decode, changed


def affordable(n_most, n_least, seconds_each):
    return max(n_least, min(n_most, int(request["seconds"] / max(seconds_each, 1e-9))))


def on_gpu():
    return mx.default_device() == mx.Device(mx.gpu)


def device():
    return str(mx.device_info().get("device_name", "GPU")) if on_gpu() else "CPU"


def log_loss(ids):
    logits = model(mx.array([ids[:-1]]))[0].astype(mx.float32)
    return nn.losses.cross_entropy(logits, mx.array(ids[1:])).sum().item()


def probe():
    """Tokens predicted and their perplexity. mlx's CPU backend sums up 16-bit products in 16 bits: F32 there."""
    if not on_gpu():
        model.set_dtype(mx.float32)
    log_loss(request["prompt"][:9])
    start = time.perf_counter()
    log_loss(request["prompt"][:9])
    n = affordable(request["probe"] - 1, 8, (time.perf_counter() - start) / 8)
    return n, math.exp(log_loss(request["prompt"][: n + 1]) / n)


try:
    each_prompt, each_answer, in_f32 = warm_up()
    n_prompt = affordable(len(request["prompt"]), 16, each_prompt)
    n_answer = affordable(request["answer"], 4, each_answer)
    mx.reset_peak_memory()
    runs = [measure(n_prompt, n_answer)]
    if runs[0][0] < 1:
        runs += [measure(n_prompt, n_answer) for _ in range(2)]
    ttft = sorted(r[0] for r in runs)[len(runs) // 2]
    answer = sorted(r[1] for r in runs)[len(runs) // 2]
    peak = mx.get_peak_memory()
    probe_tokens, probe_ppl = probe() if request["probe"] > 16 else (0, 0.0)
except Exception as e:
    finish(error=" ".join(f"{type(e).__name__}: {e}".split()))
finish(runtime="mlx_lm " + version, device=device(), prefill_tok_s=n_prompt / ttft, decode_tok_s=n_answer / answer, ttft_s=ttft,
       peak_memory_bytes=peak, prompt_tokens=n_prompt, answer_tokens=n_answer, f32=in_f32, probe_tokens=probe_tokens,
       probe_ppl=probe_ppl if math.isfinite(probe_ppl) else None)
