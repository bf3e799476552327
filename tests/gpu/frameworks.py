"""A framework inside a limit: computes right, is refused in its own words past the limit with every
block it holds intact, computes again after freeing. frameworks.py torch|cupy|cupy-async|jax LIMIT
Prints one JSON object: {"checks": {...}, ...}, or {"missing": why} where the framework is not here."""
import json
import sys

BLOCK = 64 << 20


class Torch:
    def __init__(self):
        import torch

        self.torch, self.error = torch, torch.OutOfMemoryError

    def compute(self):
        """Trains a line through known points; true if it finds them."""
        torch = self.torch
        torch.manual_seed(1)
        x = torch.randn(4096, 64, device="cuda")
        truth = torch.randn(64, 1, device="cuda")
        model = torch.nn.Linear(64, 1, bias=False).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for _ in range(100):
            optimizer.zero_grad()
            loss = ((model(x) - x @ truth) ** 2).mean()
            loss.backward()
            optimizer.step()
        return bool(torch.allclose(model.weight.detach().T, truth, atol=1e-2))

    def block(self, value):
        return self.torch.full((BLOCK // 4,), value, dtype=self.torch.int32, device="cuda")

    def holds(self, block, value):
        return bool((block == value).all())

    def free(self):
        self.torch.cuda.empty_cache()

    def facts(self):
        return {"backend": self.torch.cuda.get_allocator_backend()}


class Cupy:
    def __init__(self, is_async=False):
        import cupy

        self.cupy, self.error = cupy, cupy.cuda.memory.OutOfMemoryError
        self.pool = cupy.cuda.MemoryAsyncPool() if is_async else cupy.get_default_memory_pool()
        if is_async:
            cupy.cuda.set_allocator(self.pool.malloc)

    def compute(self):
        cupy = self.cupy
        a = cupy.arange(1 << 20, dtype=cupy.int64)
        product = cupy.ones((512, 512), dtype=cupy.float32) @ cupy.ones((512, 512), dtype=cupy.float32)
        return int(a.sum()) == (1 << 20) * ((1 << 20) - 1) // 2 and bool((product == 512).all())

    def block(self, value):
        block = self.cupy.full(BLOCK // 4, value, dtype=self.cupy.int32)
        self.cupy.cuda.Device().synchronize()
        return block

    def holds(self, block, value):
        # Without a temporary: there is no room for one.
        return int(block.min()) == value and int(block.max()) == value

    def free(self):
        self.cupy.cuda.Device().synchronize()
        self.pool.free_all_blocks()

    def facts(self):
        return {"pool": type(self.pool).__name__}


class Jax:
    def __init__(self):
        import jax
        import jax.numpy

        if jax.default_backend() != "gpu":
            raise ImportError(f"JAX's backend is {jax.default_backend()}")
        self.jax = jax
        self.error = getattr(jax.errors, "JaxRuntimeError", RuntimeError)  # older: XlaRuntimeError

    def compute(self):
        jax, np = self.jax, self.jax.numpy
        x = jax.random.normal(jax.random.PRNGKey(1), (4096, 64))
        truth = jax.random.normal(jax.random.PRNGKey(2), (64,))
        step = jax.jit(
            lambda w: w - 0.3 * jax.grad(lambda v: np.mean((x @ v - x @ truth) ** 2))(w)
        )
        w = np.zeros(64)
        for _ in range(100):
            w = step(w)
        return bool(np.allclose(w, truth, atol=1e-2))

    def block(self, value):
        return self.jax.numpy.full(BLOCK // 4, value, dtype="int32").block_until_ready()

    def holds(self, block, value):
        # On the host: XLA's autotuner wants scratch memory for a reduction, and there is no room for any.
        return bool((self.jax.device_get(block) == value).all())

    def free(self):
        pass

    def facts(self):
        return {"arena_bytes": self.jax.local_devices()[0].memory_stats()["bytes_limit"]}


def main():
    name, limit = sys.argv[1], int(sys.argv[2])
    makers = {"torch": Torch, "cupy": Cupy, "cupy-async": lambda: Cupy(True), "jax": Jax}
    try:
        framework = makers[name]()
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return 0
    checks = {"computes": framework.compute()}
    held, error = [], None
    while error is None and len(held) * BLOCK <= limit:
        try:
            held.append(framework.block(len(held)))
        except Exception as caught:  # which one is what is looked at
            error = f"{type(caught).__name__}: {caught}"
            checks["its own error"] = isinstance(caught, framework.error) and (
                name != "jax" or "RESOURCE_EXHAUSTED" in error
            )
    checks["refused"] = error is not None
    filled = len(held) * BLOCK
    # One block is given back, so that the look at the others has room.
    held.pop()
    framework.free()
    checks["blocks intact"] = all(framework.holds(block, i) for i, block in enumerate(held))
    facts = framework.facts()
    if name == "jax":
        checks["one arena of 75 %"] = 0.70 * limit <= facts["arena_bytes"] <= 0.76 * limit
    del held[len(held) // 2 :]
    framework.free()
    checks["recovers"] = framework.compute() and framework.holds(framework.block(7), 7)
    print(json.dumps({"checks": checks, "filled_bytes": filled, "error": error, **facts}))
    return 0 if all(checks.values()) else 1


sys.exit(main())
