"""Where a run computes: one device, all GPUs, several machines, a TPU."""

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

import tensorflow as tf

from data_pipelines.errors import UserError
from data_pipelines.input.reading import share_of
from faceattr_tf.precision import PRECISIONS
from faceattr_tf.training.cluster import ended_by_signals, read_cluster, wait_for_machines

STRATEGIES = ("default", "mirrored", "multi_worker", "tpu")


def create_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy of that name; `multi_worker` reads the cluster from `TF_CONFIG`.

    Raises:
        UserError: no such strategy, no cluster of which `TF_CONFIG` says what is needed, a cluster
            for a strategy of one machine, or no TPU within reach.
    """
    if name == "default":
        return tf.distribute.get_strategy()
    cluster = os.environ.get("TF_CONFIG")
    if name == "mirrored":
        if cluster and len(machines := read_cluster(cluster)[0]) > 1:
            raise UserError(
                f"strategy mirrored is for one machine, and TF_CONFIG names {len(machines)}; "
                "expected multi_worker, or no TF_CONFIG"
            )
        return tf.distribute.MirroredStrategy()
    if name == "multi_worker":
        if not cluster:
            raise UserError("strategy multi_worker: TF_CONFIG has to name the cluster and the task")
        wait_for_machines(*read_cluster(cluster))
        with ended_by_signals():
            return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        except (ValueError, tf.errors.OpError) as error:
            raise UserError(f"strategy tpu: no TPU was found ({error})") from error
        return tf.distribute.TPUStrategy(resolver)
    raise UserError(f"strategy {name!r} is none of {', '.join(STRATEGIES)}")


def check_agreement(strategy: tf.distribute.Strategy, precision: str) -> None:
    """Makes sure that all machines compute in the same precision, which each may choose itself.

    Raises:
        UserError: they do not.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    own = float(PRECISIONS.index(precision))
    everywhere = strategy.run(lambda: tf.constant(own))
    if float(strategy.reduce(tf.distribute.ReduceOp.MEAN, everywhere, axis=None)) != own:
        raise UserError(
            f"the machines differ: this one computes in {precision}, others do not; "
            "name one for all by --config.precision"
        )


@contextlib.contextmanager
def lost_machines_named(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Says how a run goes on when another of its machines does not answer any more.

    Raises:
        UserError: one does not.
    """
    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
    try:
        yield
    except (*lost, tf.errors.DeadlineExceededError, tf.errors.InternalError) as error:
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise
        reason = str(error).splitlines()[0].rpartition("}} ")[2]  # behind names of nodes
        raise UserError(
            "another machine of TF_CONFIG does not answer any more; start those that are left with "
            "a TF_CONFIG that names them alone, or more, and the run goes on from its last "
            f"checkpoint ({reason})"
        ) from error


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes the workdir."""
    resolver = strategy.cluster_resolver
    if resolver is None or not getattr(resolver, "task_type", None):
        return True
    if resolver.task_type == "chief":
        return True
    has_chief = "chief" in resolver.cluster_spec().as_dict()
    return resolver.task_type == "worker" and resolver.task_id == 0 and not has_chief


def distribute(strategy, create_batches, batch_size: int):
    """Batches for every replica of this process.

    Every worker reads and decodes its own share of each global batch, so the examples of a step do
    not depend on how many workers there are. Shares may differ by an example: losses are sums over
    a batch, divided by its size, so that every example weighs the same whoever sees it.

    Args:
        strategy: from `create_strategy`.
        create_batches: `(worker index, workers) -> tf.data.Dataset` of that worker's shares.
        batch_size: examples per step over all replicas.

    Raises:
        UserError: a replica has no example, or one of a TPU not as many as the others.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1 and strategy.cluster_resolver is None:
        return create_batches(0, 1)
    shares = [share_of(batch_size, index, replicas) for index in range(replicas)]
    sizes = [end - begin for begin, end in shares]
    if isinstance(strategy, tf.distribute.TPUStrategy) and len(set(sizes)) > 1:
        raise UserError(f"batch_size {batch_size} is no multiple of the {replicas} TPU cores")

    def worker_batches(context):
        worker, workers = context.input_pipeline_id, context.num_input_pipelines
        begin, end = share_of(replicas, worker, workers)
        own = sizes[begin:end]
        # Of equal shares the shape is known, for which more can be compiled.
        return create_batches(worker, workers).rebatch(own[0] if len(set(sizes)) == 1 else own)

    return strategy.distribute_datasets_from_function(worker_batches)


def checkpoint_folder(strategy, folder: str) -> str:
    """Where this process saves: saving is collective, but only the chief's files are kept."""
    if is_chief(strategy):
        return folder
    folder = tempfile.mkdtemp(prefix="faceattr-worker-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
