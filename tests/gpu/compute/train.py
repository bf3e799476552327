"""Training of a small network, its data from DataLoader workers: eager, torch.compile, one CUDA graph a step.

Prints one JSON line each: {"load", "rate": steps a second, "losses": of the first steps}. The same seed each
time, so the losses must not depend on any limit. A capture that fails ends the program.
Usage: train.py [--seconds 3] [--device cuda|cpu]
"""
import argparse
import json
import time

import torch

BATCH, INPUT, WIDTH, OUTPUT, BATCHES, FIRST = 512, 256, 4096, 16, 64, 40


class Batches(torch.utils.data.Dataset):
    def __len__(self):
        return 1 << 30

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i % BATCHES)
        x = torch.randn(BATCH, INPUT, generator=generator)
        return x, (x[:, :OUTPUT] * 2).sin()


def network(device):
    torch.manual_seed(1)
    width = WIDTH if device == "cuda" else 64
    layers = [torch.nn.Linear(INPUT, width), torch.nn.GELU()]
    for _ in range(3):
        layers += [torch.nn.Linear(width, width), torch.nn.GELU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, OUTPUT)).to(device)


def plain_step(model, forward, optimizer):
    def step(x, y):
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(forward(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def graph_step(model, optimizer, device):
    """The whole step captured once; the data is copied into the tensors that it was captured with."""
    x = torch.zeros(BATCH, INPUT, device=device)
    y = torch.zeros(BATCH, OUTPUT, device=device)

    def body():
        optimizer.zero_grad(set_to_none=False)
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    state = {name: value.clone() for name, value in model.state_dict().items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            body()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = body()
    model.load_state_dict(state)  # forget the steps of the warm-up
    for moments in optimizer.state.values():
        moments["momentum_buffer"].zero_()

    def step(new_x, new_y):
        x.copy_(new_x, non_blocking=True)
        y.copy_(new_y, non_blocking=True)
        graph.replay()
        return loss.clone()

    return step


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    device = options.device
    is_cuda = device == "cuda"
    for load in ("eager", "compiled", "graph") if is_cuda else ("eager",):
        model = network(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
        if load == "graph":
            step = graph_step(model, optimizer, device)
        else:
            step = plain_step(model, torch.compile(model) if load == "compiled" else model, optimizer)
        loader = torch.utils.data.DataLoader(Batches(), batch_size=None, num_workers=4, pin_memory=is_cuda,
                                             prefetch_factor=8)
        losses, done, begin = [], 0, None
        for i, (x, y) in enumerate(loader):
            loss = step(x.to(device, non_blocking=True), y.to(device, non_blocking=True))
            if i < FIRST:
                losses.append(loss)
            if i % 4 == 3 and is_cuda:
                torch.cuda.synchronize()
            if i == FIRST + 39:  # what was saved up at the start is spent
                done, begin = 0, time.perf_counter()
                continue
            if begin is not None:
                done += 1
                if i % 4 == 3 and time.perf_counter() - begin >= options.seconds:
                    break
        rate = done / (time.perf_counter() - begin)
        print(json.dumps({"load": load, "rate": rate, "losses": [float(l) for l in losses]}), flush=True)
        del loader


if __name__ == "__main__":
    main()
