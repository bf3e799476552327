"""A launch-bound transformer step at batch 1, about 1,500 launches, eager and as one CUDA graph.

Says {"ready": true}, then answers each line of stdin with one of JSON, until stdin ends:
  eager SECONDS [WORK PAUSE] | graph SECONDS
                                  {"times": [CLOCK_MONOTONIC ns …], "speeds": [ns …], "tokens": of each}: when each
                                  layer (graph: each token) was launched (was done), how long the core took right
                                  after that for a fixed piece of work (graph: []), what part of a token that is.
                                  Sleeps for PAUSE ms after each WORK ms, as it would if it were held back
  region                          {"region": path of the session's, "" natively}
  launches                        {"launches": of an eager token}, by torch's profiler; slows what follows
Usage: decode.py [--device cuda|cpu] [--core N]
  --core: the thread that launches stays on it. Cores differ on a shared host, by what else runs on them.
"""
import argparse
import json
import os
import sys
import time

import torch

WIDTH, HEADS, LAYERS, CONTEXT, WORDS = 1024, 16, 38, 512, 8192


class Layer:
    def __init__(self, device, dtype):
        def weight(rows, columns):
            return torch.randn(rows, columns, device=device, dtype=dtype) * rows**-0.5

        self.q, self.k, self.v, self.o = (weight(WIDTH, WIDTH) for _ in range(4))
        self.gate, self.up = weight(WIDTH, 2 * WIDTH), weight(WIDTH, 2 * WIDTH)
        self.down = weight(2 * WIDTH, WIDTH)
        self.scale = torch.ones(2, WIDTH, device=device, dtype=dtype)
        self.keys = torch.zeros(HEADS, CONTEXT, WIDTH // HEADS, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)


def norm(x, scale):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * scale


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def step(layers, embedding, cos, sin, token, position, times):
    x = embedding[token]
    for layer in layers:
        h = norm(x, layer.scale[0])
        q = rotate((h @ layer.q).view(HEADS, 1, -1), cos, sin)
        k = rotate((h @ layer.k).view(HEADS, 1, -1), cos, sin)
        layer.keys.index_copy_(1, position, k)
        layer.values.index_copy_(1, position, (h @ layer.v).view(HEADS, 1, -1))
        weights = torch.softmax(torch.bmm(q, layer.keys.transpose(1, 2)) * q.shape[-1] ** -0.5, -1)
        x = x + torch.bmm(weights, layer.values).view(1, WIDTH) @ layer.o
        h = norm(x, layer.scale[1])
        x = x + (torch.nn.functional.silu(h @ layer.gate) * (h @ layer.up)) @ layer.down
        times.append(time.monotonic_ns())
    token.copy_((x @ embedding.t()).argmax(-1))


class Moments(list):
    """Notes the core's speed with each. Whoever has noted them for `work` ns then sleeps for `pause`; 0: never."""

    def __init__(self, work, pause):
        self.work, self.pause, self.until, self.speeds = work, pause, time.monotonic_ns() + work, []

    def append(self, now):
        super().append(now)
        total = 0
        for i in range(200):
            total += i
        self.speeds.append(time.monotonic_ns() - now)
        if self.pause and now > self.until:
            time.sleep(self.pause / 1e9)
            self.until = time.monotonic_ns() + self.work


def trace(run, token, seconds, work=0, pause=0):
    """Each token is read by the host before the next, as decoding does."""
    times = Moments(work * 1e6, pause * 1e6)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        run(times)
        token.item()
    return times


def launches_of(run):
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        run([])
        torch.cuda.synchronize()
    return sum(e.count for e in seen.key_averages() if "LaunchKernel" in e.key)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--core", type=int)
    options = parser.parse_args()
    device, dtype = options.device, torch.bfloat16 if options.device == "cuda" else torch.float32
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    layers = [Layer(device, dtype) for _ in range(LAYERS if device == "cuda" else 2)]
    embedding = torch.randn(WORDS, WIDTH, device=device, dtype=dtype) * 0.1
    angle = torch.rand(WIDTH // HEADS, device=device, dtype=dtype)
    cos, sin = angle.cos(), angle.sin()
    token = torch.zeros(1, device=device, dtype=torch.long)
    position = torch.full((1,), 7, device=device, dtype=torch.long)

    def eager(times):
        step(layers, embedding, cos, sin, token, position, times)

    def captured():
        if device != "cuda":
            return eager
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                eager([])
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            eager([])

        def replay(times):
            graph.replay()
            token.item()
            list.append(times, time.monotonic_ns())

        return replay

    eager([])
    runs = {"eager": eager, "graph": captured()}
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        what, *numbers = line.split()
        if what == "launches":
            answer = {"launches": launches_of(eager) if device == "cuda" else 0}
        elif what == "region":
            answer = {"region": os.environ.get("VGPU_REGION", "")}
        else:
            times = trace(runs[what], token, *map(float, numbers))
            answer = {"times": times, "speeds": times.speeds,
                      "tokens": 1 / len(layers) if what == "eager" or device != "cuda" else 1}
        print(json.dumps(answer), flush=True)


main()
