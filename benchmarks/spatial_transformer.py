"""Time and memory of the spatial transformer, beside PyTorch's `affine_grid` and `grid_sample`.

    python -m benchmarks.spatial_transformer [--backend=tensorflow|jax|torch] [--rounds=N]
                                             [--threads=N] [--outside=border|zeros]

Cases are the forward pass, that with the gradient to the transforms, and with both gradients, for
images 32x256x256x3 and maps 16x64x64x128, on transforms with rotations of up to 30 degrees, scales
of 0.8 to 1.25 and shifts of up to 15 %. Competitors take turns within one process and the medians
of their rounds are compared, because absolute times mean little on a shared machine:

- torch: `affine_grid` and `grid_sample`, channels last, on a GPU where PyTorch finds one;
- layer: `SpatialTransformer` in training, in a `tf.function`, under `jax.jit`, or eagerly on the
  backend torch;
- plain (TensorFlow, forward pass alone): the layer in inference, as saved graphs hold it.

Values and gradients are compared before anything is timed. Memory (processors alone) is what the
peak of a fresh process grows by, beyond the inputs, when the case runs three times; whatever
compiles did so on a single image before.
"""

import argparse
import functools
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import time

import numpy as np

SHAPES = ((32, 256, 256, 3), (16, 64, 64, 128))
CASES = ("forward", "theta", "both")


def draw(shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, transforms `[B, 6]` and the gradient that comes from above."""
    random = np.random.default_rng(0)
    images, upstream = (random.standard_normal(shape, np.float32) for _ in range(2))
    angle = random.uniform(-np.pi / 6, np.pi / 6, shape[0])
    scale = random.uniform(0.8, 1.25, shape[0])
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    across, down = random.uniform(-0.3, 0.3, (2, shape[0]))
    theta = np.stack([cosine, -sine, across, sine, cosine, down], axis=1)
    return images, theta.astype(np.float32), upstream


def torch_competitor(case: str, arrays, outside: str):
    """A function that runs the case in PyTorch and returns images, then gradients."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, theta, upstream = (torch.tensor(array).to(device) for array in arrays)
    # Views of memory in NHWC, which is what PyTorch calls channels last.
    images, upstream = images.permute(0, 3, 1, 2), upstream.permute(0, 3, 1, 2)
    theta = theta.reshape(-1, 2, 3)
    images.requires_grad_(case == "both")
    theta.requires_grad_(case != "forward")

    def run():
        grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
        outputs = torch.nn.functional.grid_sample(
            images, grid, padding_mode=outside, align_corners=False
        )
        sources = [value for value in (theta, images) if value.requires_grad]
        gradients = torch.autograd.grad(outputs, sources, upstream) if sources else ()
        if device == "cuda":
            torch.cuda.synchronize()
        return outputs, *gradients

    return run


def layer_competitor(case: str, arrays, outside: str, training: bool = True):
    """The same by the layer, on the backend of Keras."""
    import keras

    from faceattr_tf.layers import SpatialTransformer

    layer = SpatialTransformer(outside=outside)
    layer.build([array.shape for array in arrays[:2]])
    count = CASES.index(case)
    backend = keras.backend.backend()
    images, theta, upstream = (keras.ops.convert_to_tensor(array) for array in arrays)
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function
        def step(images, theta, upstream):
            with tf.GradientTape() as tape:
                tape.watch((theta, images)[:count])
                outputs = layer([images, theta], training=training)
            sources = [theta, images][:count]
            gradients = tape.gradient(outputs, sources, upstream) if count else []
            return outputs, *gradients

        def run():
            results = step(images, theta, upstream)
            results[-1][:1].numpy()  # Waits for it.
            return results

    elif backend == "jax":
        import jax

        @jax.jit
        def step(images, theta, upstream):
            sources = (theta, images)[:count]

            def sample(*sources):
                moved_theta, moved_images = (*sources, *(theta, images)[count:])
                return layer([moved_images, moved_theta], training=training)

            outputs, pull = jax.vjp(sample, *sources)
            return outputs, *(pull(upstream) if count else ())

        def run():
            return jax.block_until_ready(step(images, theta, upstream))

    else:
        import torch

        images.requires_grad_(count > 1)
        theta.requires_grad_(count > 0)

        def run():
            outputs = layer([images, theta], training=training)
            sources = [theta, images][:count]
            gradients = torch.autograd.grad(outputs, sources, upstream) if count else ()
            if images.is_cuda:
                torch.cuda.synchronize()
            return outputs, *gradients

    return run


def competitors(case: str, arrays, outside: str) -> dict:
    """Functions by name."""
    import keras

    found = {
        "torch": torch_competitor(case, arrays, outside),
        "layer": layer_competitor(case, arrays, outside),
    }
    if case == "forward" and keras.backend.backend() == "tensorflow":
        found["plain"] = layer_competitor(case, arrays, outside, training=False)
    return found


def check(results: dict) -> None:
    """Raises where a competitor's values or gradients are others than PyTorch's."""
    expected = [value.detach().cpu() for value in results["torch"]]
    for name in results.keys() - {"torch"}:
        for value, reference in zip(results[name], expected, strict=True):
            if hasattr(value, "detach"):
                value = value.detach().cpu()
            if reference.ndim == 4:
                reference = reference.permute(0, 2, 3, 1)
            value, reference = np.asarray(value), reference.numpy()
            error = np.abs(value - reference.reshape(value.shape)).max()
            # Positions differ in their last bits, so that a few fall beyond a whole pixel, where
            # the slope of noise is another.
            if error > 0.05 * np.abs(reference).max():
                raise AssertionError(f"{name} differs from torch by {error}")


def peak() -> float:
    """The most memory that this process ever held, in MB (Linux)."""
    # `getrusage` would begin with the peak of the process that started this one.
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+)", status.read())[1]) / 1024


def measure_memory(name: str, case: str, shape, outside: str) -> None:
    """Prints by how many MB the peak of this process grows beyond the inputs."""
    one = [array[:1] for array in draw(shape)]
    make = torch_competitor if name == "torch" else layer_competitor
    make = functools.partial(make, training=False) if name == "plain" else make
    make(case, one, outside)()
    arrays = draw(shape)  # Kept, so that what runs cannot take over its memory.
    run = make(case, arrays, outside)
    before = peak()
    for _ in range(3):
        run()
    print(f"{peak() - before:.0f}")


def peak_memory(name: str, case: str, shape, options) -> float:
    """What `measure_memory` prints in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.spatial_transformer"]
    command += [f"--{key}={getattr(options, key)}" for key in ("backend", "threads", "outside")]
    command += ["--memory", name, case, str(SHAPES.index(shape))]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return float(done.stdout)


def on_processor() -> bool:
    """Whether everything runs on the processor, whose memory can be measured from outside."""
    import torch

    return not torch.cuda.is_available()


def compare(options) -> None:
    """Times every case and prints medians, their ratios to PyTorch, and peak memory."""
    print(
        f"backend {options.backend}, {options.threads} threads, outside {options.outside}, "
        f"medians of {options.rounds} rounds"
    )
    for shape in SHAPES:
        arrays = draw(shape)
        print("x".join(map(str, shape)))
        for case in CASES:
            runs = competitors(case, arrays, options.outside)
            check({name: run() for name, run in runs.items()})
            times = {name: [] for name in runs}
            for _ in range(options.rounds):
                for name, run in runs.items():
                    begin = time.perf_counter()
                    run()
                    times[name].append(time.perf_counter() - begin)
            medians = {name: 1000 * statistics.median(found) for name, found in times.items()}
            for name, median in medians.items():
                line = f"  {case:8} {name:6} {median:8.1f} ms"
                line += f"  {median / medians['torch']:5.2f} of torch"
                if on_processor():
                    line += f"  {peak_memory(name, case, shape, options):6.0f} MB"
                print(line, flush=True)


def main() -> None:
    """Reads the options, sets threads and backend, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="tensorflow", choices=("tensorflow", "jax", "torch"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--outside", default="border", choices=("border", "zeros"))
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        parser.error("torch is not installed; it is what the layer is compared with")

    os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import torch

    torch.set_num_threads(options.threads)
    if options.backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    if options.memory:
        name, case, shape = options.memory
        measure_memory(name, case, SHAPES[int(shape)], options.outside)
    else:
        compare(options)


if __name__ == "__main__":
    main()
