#!/usr/bin/env python3
"""How well a profile predicts the truth of prediction_truth.py: Spearman's rank correlation inside each type and the
median of predicted / measured.

    prediction_compare.py PROFILE.json TRUTH.json [--floor 0] [--stats STATS.gguf] [--smooth]

Pairs whose measured divergence is below --floor nats are left out of the ratio (never of the ranks). A truth of single
experts ("NAME#EXPERT") is compared with the costs per expert of --stats (needs the PyPI package gguf).
"""
import argparse
import json
import math
import statistics


def ranks(values):
    order = sorted(range(len(values)), key=values.__getitem__)
    out = [0.0] * len(values)
    for rank, i in enumerate(order):
        out[i] = rank
    return out


def spearman(x, y):
    a, b = ranks(x), ranks(y)
    return statistics.correlation(a, b)


def alone(tensor, cost, smooth):
    """Nats of one tensor in one type: the quadratic form, and the choices of experts that it changes (method.md eq. 15)."""
    changed = math.sqrt(tensor.get("reach", 0) * cost.get("routing", 0))
    return cost["nats"] + (0 if smooth else changed)


def of_experts(path, smooth):
    """{"NAME#EXPERT": {type: nats}} of a statistics file."""
    import gguf

    reader, out = gguf.GGUFReader(path), {}
    data = {t.name: t.data for t in reader.tensors}
    for key, nats in data.items():
        name, _, what = key.rpartition(".")
        if what == "expert_nats":
            types = reader.fields[f"optimum.stats.types.{name}"].contents().split(",")
            changed = data.get(f"{name}.expert_routing")
            total = nats if smooth or changed is None else nats + changed
            out |= {f"{name}#{e}": dict(zip(types, map(float, row))) for e, row in enumerate(total)}
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("profile")
    p.add_argument("truth")
    p.add_argument("--floor", type=float, default=0.0)
    p.add_argument("--stats")
    p.add_argument("--smooth", action="store_true", help="leave out changed choices: for a truth with --freeze")
    args = p.parse_args()
    predicted = {t["name"]: {k: alone(t, v, args.smooth) for k, v in t["types"].items()}
                 for t in json.load(open(args.profile))["tensors"]}
    if args.stats:
        predicted |= of_experts(args.stats, args.smooth)
    truth = json.load(open(args.truth))
    by_type = {}
    for name, kinds in truth.items():
        for kind, measured in kinds.items():
            if kind in predicted.get(name, {}):
                by_type.setdefault(kind, []).append((predicted[name][kind], measured, name))
    print(f"{'type':8} {'tensors':>7} {'Spearman':>9} {'median ratio':>13} {'10 %':>7} {'90 %':>7} {'sum pred':>10} {'sum meas':>10}")
    for kind, rows in sorted(by_type.items()):
        if len(rows) < 5:
            continue
        ratio = sorted(p / m for p, m, _ in rows if m > max(args.floor, 0))
        print(f"{kind:8} {len(rows):7} {spearman([r[0] for r in rows], [r[1] for r in rows]):9.3f} "
              f"{statistics.median(ratio):13.3f} {ratio[len(ratio) // 10]:7.2f} {ratio[len(ratio) * 9 // 10]:7.2f} "
              f"{sum(r[0] for r in rows):10.5f} {sum(r[1] for r in rows):10.5f}")


if __name__ == "__main__":
    main()
