"""Time of locally shared filters, beside a plain convolution of the same arithmetic.

    python -m benchmarks.locally_shared_convolution [--backend=tensorflow|jax|torch] [--rounds=N]
                                                    [--threads=N] [--precision=DTYPE]

Cases are the third and the fourth convolution of DeepID2, whose sizes ANet follows, and two of
wider maps and larger cells; forward, and with the gradients to maps and filters: in a
`tf.function`, under `jax.jit`, or eagerly on the backend torch. The two take turns within one
process and the medians of their rounds are compared, because absolute times mean little on a
shared machine. Before anything is timed, all cells get the plain convolution's filters, with which
values and gradients must be the same.
"""

import argparse
import os
import statistics
import time

import numpy as np

CASES = {
    "12x10x40, 60 of 3x3, 5x4 cells": ((64, 12, 10, 40), 60, (3, 3), (5, 4)),
    "5x4x60, 80 of 2x2, 4x3 cells": ((64, 5, 4, 60), 80, (2, 2), (4, 3)),
    "18x18x64, 64 of 3x3, 2x2 cells": ((64, 18, 18, 64), 64, (3, 3), (2, 2)),
    "26x26x64, 96 of 3x3, 4x4 cells": ((32, 26, 26, 64), 96, (3, 3), (4, 4)),
}
"""Maps, filters, their size, and the grid; outputs lie within the maps."""


def compiled(layer, maps, upstream):
    """Functions that run the layer, and the layer with its gradients, and wait for the results."""
    import keras

    backend = keras.backend.backend()
    kernel = layer.kernel.value
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function
        def forward(maps):
            return (layer(maps),)

        @tf.function
        def both(maps):
            with tf.GradientTape() as tape:
                tape.watch(maps)
                outputs = layer(maps)
            return outputs, *tape.gradient(outputs, [maps, kernel], upstream)

        def wait(results):
            results[-1][:1].numpy()
            return results

    elif backend == "jax":
        import jax

        def run(maps, kernel):
            return layer.stateless_call([kernel, layer.bias.value], [], maps)[0]

        def gradients(maps, kernel):
            outputs, pull = jax.vjp(run, maps, kernel)
            return outputs, *pull(upstream)

        jitted, jitted_both = jax.jit(lambda *sources: (run(*sources),)), jax.jit(gradients)

        def forward(maps):
            return jitted(maps, kernel)

        def both(maps):
            return jitted_both(maps, kernel)

        wait = jax.block_until_ready
    else:
        import torch

        leaf = maps.clone().requires_grad_()

        def forward(maps):
            with torch.no_grad():
                return (layer(maps),)

        def both(_):
            outputs = layer(leaf)
            return outputs, *torch.autograd.grad(outputs, [leaf, kernel], upstream)

        def wait(results):
            return results

    return {"forward": lambda: wait(forward(maps)), "and gradients": lambda: wait(both(maps))}


def competitors(case: str, precision: str) -> dict:
    """Of the layer and of the plain convolution: functions by name, checked against each other."""
    import keras

    from faceattr_tf.layers import LocallySharedConv2D

    shape, filters, kernel_size, grid = CASES[case]
    plain = keras.layers.Conv2D(filters, kernel_size, dtype=precision)
    local = LocallySharedConv2D(filters, kernel_size, grid, "valid", dtype=precision)
    plain.build(shape)
    local.build(shape)
    cells = grid[0] * grid[1]
    local.set_weights([np.stack([weight] * cells) for weight in plain.get_weights()])
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(size) for size in (shape, plain.compute_output_shape(shape))]
    maps, upstream = (keras.ops.convert_to_tensor(array, plain.compute_dtype) for array in arrays)
    found = {
        name: compiled(layer, maps, upstream)
        for name, layer in (("plain", plain), ("local", local))
    }
    results = {}
    for name, runs in found.items():
        values = [keras.ops.cast(value, "float32") for value in runs["and gradients"]()]
        results[name] = [keras.ops.convert_to_numpy(value) for value in values]
        runs["forward"]()
    # All cells together learn what the one filter of the plain convolution does.
    results["local"][2] = results["local"][2].sum(0)
    for value, expected in zip(results["local"], results["plain"], strict=True):
        error = np.abs(value - expected).max() / np.abs(expected).max()
        if error > (1e-4 if precision == "float32" else 0.05):
            raise AssertionError(f"{case}: the layer differs from the convolution by {error}")
    return found


def main() -> None:
    """Reads the options, sets threads and backend, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="tensorflow", choices=("tensorflow", "jax", "torch"))
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", default="float32", choices=("float32", "mixed_bfloat16"))
    options = parser.parse_args()
    os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    elif options.backend == "torch":
        import torch

        torch.set_num_threads(options.threads)

    from faceattr_tf.precision import processor_name

    print(f"{processor_name()}, {options.threads} threads, {options.backend}, {options.precision}")
    for case in CASES:
        found = competitors(case, options.precision)
        for kind in found["plain"]:
            times = {name: [] for name in found}
            for _ in range(options.rounds):
                for name, runs in found.items():
                    begin = time.perf_counter()
                    runs[kind]()
                    times[name].append(time.perf_counter() - begin)
            plain, local = (1000 * statistics.median(times[name]) for name in ("plain", "local"))
            print(
                f"  {case:32} {kind:14} plain {plain:7.2f} ms, locally shared {local:7.2f} ms, "
                f"{plain / local:.2f} of its speed",
                flush=True,
            )


if __name__ == "__main__":
    main()
