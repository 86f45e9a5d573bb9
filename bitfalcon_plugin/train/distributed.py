"""Training on several devices: a process for each, gradients averaged over them, files written by rank 0.

Paper: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training" (VLDB 2020). Written from
spec/interface.md 6.10. The processes come from torchrun, or from torch's elastic launcher, which is what torchrun
runs. What has to be alike on all ranks is alike for these reasons: the weights start as rank 0's
(DistributedDataParallel sends them) and every rank makes the same step from the same averaged gradient; the loss
scale follows from that gradient; every rank's share of a batch is seeded by (seed, epoch, batch), not by what the
process did before.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config.errors import UserError
from ..config.signals import Interrupts, Stopped
from .progress import Progress
from .watch import Watch

# Other ranks wait while rank 0 reads or writes files; a rank that dies or hangs is noticed by watch.py, long before.
TIMEOUT = timedelta(minutes=30)
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

_joined = itertools.count()  # groups that this process was in; equal on all ranks, which join together


class LostPeer(UserError):
    """Another process of the training ended or hangs; the machine or the program failed, not the user."""

    exit_code = 1


@dataclass(frozen=True)
class World:
    """The processes that train together; this one is `rank` of `size`, and number `local_rank` on its machine.

    A World of one process does nothing, so that a loop needs no branches. Methods that exchange something must be
    called by all ranks in the same order. progress: what this process does at the moment.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    progress: Progress = field(default_factory=Progress, compare=False, repr=False)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def enter(self, stage: str, waiting: bool = False) -> None:
        """Begin a stage (progress.py names them), or report progress in it. waiting: whether it waits for others."""
        self.progress.enter(stage, waiting)

    def gather(self, parts: Sequence[object]) -> list:
        """The items of every rank's `parts`, in the order of ranks; every rank gets all. Items are pickled."""
        if self.size == 1:
            return list(parts)
        lists: list = [None] * self.size
        with self.progress.exchange():
            dist.all_gather_object(lists, list(parts))
        return [item for items in lists for item in items]

    def mean(self, tensor: Tensor) -> Tensor:
        """The average over the ranks of a floating tensor; `tensor` itself is not changed."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        with self.progress.exchange():
            dist.all_reduce(total)
        return total / self.size

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank. Goes over the CPU: no GPU is waited for."""
        if self.size == 1:
            return bool(flag)
        highest = torch.tensor([int(flag)])
        with self.progress.exchange():
            dist.all_reduce(highest, dist.ReduceOp.MAX)
        return bool(highest)

    def all(self, flag: bool) -> bool:
        """Return whether `flag` is true on every rank; as `any`, over the CPU."""
        return not self.any(not flag)

    def broadcast(self, value):
        """Rank 0's `value` (anything that pickles), on every rank."""
        if self.size == 1:
            return value
        values = [value]
        with self.progress.exchange():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.any(False)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let rank 0 run the block before all other ranks, which then find the files that rank 0 wrote."""
        if not self.main:
            self.barrier()
        yield
        if self.main:
            self.barrier()

    def synchronise_norms(self, model: nn.Module) -> nn.Module:
        """Let batch norms normalise over the images of all ranks, on GPUs only; in place, returns `model`.

        Parameters and buffers stay the same tensors under the same names. Copy the model for the EMA before: the copy
        then keeps nn.BatchNorm2d, which folding and odd_norms expect.
        """
        on_gpu = all(parameter.device.type == "cuda" for parameter in model.parameters())
        return nn.SyncBatchNorm.convert_sync_batchnorm(model) if self.size > 1 and on_gpu else model

    def wrap(self, model: nn.Module) -> nn.Module:
        """The network to run forward and backward: with several processes DistributedDataParallel(model), else `model`.

        Freeze parameters before. `model` has the parameters that are trained, and is what files are written from.
        Buffers are not sent at every forward: training does not read running statistics. Rank 0 writes the files, so
        its statistics count; `broadcast_buffers` sends them to all ranks before a validation.
        """
        if self.size == 1:
            return model
        device = next(model.parameters()).device
        unused = _has_unused_parameters(model)
        with self.progress.exchange():  # the weights of rank 0
            # not static_graph: it looks for tensors in tuples and plain dicts, and Raw is a dict of its own kind
            network = DistributedDataParallel(
                model,
                device_ids=[device.index] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                find_unused_parameters=unused,
            )
        network.broadcast_buffers = False  # the argument has another name in newer torch, the attribute has both
        return network

    def accumulating(self, network: nn.Module) -> contextlib.AbstractContextManager:
        """A context for forward and backward of a batch that no step follows: gradients stay on their rank."""
        return network.no_sync() if self.size > 1 else contextlib.nullcontext()

    def scale_loss(self, total: Tensor) -> Tensor:
        """The loss to run backward from: `total` times the number of ranks.

        The loss of most tasks is a sum over the images of a batch, and DistributedDataParallel averages gradients over
        the ranks; times their number the average is the sum that one process gets from all shares.
        """
        return total * self.size if self.size > 1 else total  # one process keeps the very tensor

    @torch.no_grad()
    def average_gradients(self, model: nn.Module) -> None:
        """Average over the ranks, in place, the gradients that wait for a step, before a checkpoint holds them.

        The checkpoint of rank 0 then has the gradients of all ranks, and a resumed run, on any number of processes,
        makes the same step from them.
        """
        if self.size > 1:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            with self.progress.exchange():
                _exchange_together(gradients, lambda flat: dist.all_reduce(flat.div_(self.size)))

    @torch.no_grad()
    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers of rank 0, as before a validation that all ranks take part in."""
        if self.size > 1:
            with self.progress.exchange():
                _exchange_together(model.buffers(), lambda flat: dist.broadcast(flat, src=0))


@contextmanager
def join(devices: Sequence[torch.device], timeout: float = 0.0) -> Iterator[World]:
    """Join the processes that torchrun's environment describes, and leave them at the end; alone where there is none.

    devices: this process's own, as select_devices gives it. timeout: seconds after which a process without progress
    ends the training, see watch.py; 0: never. GPUs exchange tensors by nccl, CPUs (and plain values) by gloo. Raises
    UserError for an environment that is set by half, and devices that cannot train together; LostPeer for a process
    that is gone.
    """
    world, device = _environment(), devices[0]
    if world.size == 1 or dist.is_available() and dist.is_initialized():  # a script's own group stays the script's
        yield world
        return
    if not dist.is_available() or device.type not in ("cpu", "cuda"):
        raise UserError(
            f"WORLD_SIZE={world.size}: torch cannot train on several devices of kind {device.type} here. Use one."
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    both = device.type == "cuda" and dist.is_nccl_available()
    store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    # a store for each group: the store of an earlier group still lists addresses of closed connections
    group = next(_joined)
    store = dist.PrefixStore(f"bitfalcon {group}", store)
    backend = "cpu:gloo,cuda:nccl" if both else "gloo"
    world.progress.timeout = timeout
    watch = Watch(rank, size, world.local_rank, world.progress, device.type == "cuda", group)
    watch.start()
    try:
        with world.progress.exchange():
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        yield world
    except BaseException as error:
        # Once this process has left, the others fail too; launch.py finds the first failure by this time.
        failed_at = time.time_ns()
        problem = _lost_peer(error, world, watch) or error
        problem.failed_at = failed_at
        watch.leave(problem, expected=isinstance(problem, (LostPeer, KeyboardInterrupt, Stopped)))
        _leave(abort=both)
        raise problem  # noqa: B904  it may be the error itself
    watch.leave(None, expected=True)
    _leave(abort=False)


def _lost_peer(error: BaseException, world: World, watch: Watch) -> LostPeer | None:
    """The error for the user where torch reports that another process is gone, else None."""
    # gloo raises plain RuntimeErrors, which only their text tells apart
    if not isinstance(error, dist.DistError) and not (isinstance(error, RuntimeError) and "gloo" in str(error)):
        return None
    if watch.notes is None:  # otherwise the launcher knows which one ended first
        with Interrupts():  # torchrun ends the others by SIGTERM
            lost = watch.find_lost()
        if lost:
            return LostPeer(lost)
    return LostPeer(
        f"Process {world.rank} of {world.size} (counted from 0; stage: {world.progress.stage}) cannot reach the "
        f"others: one of them ended, or the network did ({str(error).partition('. ')[0]})."
    )


def check_batch(batch: float, size: int) -> None:
    """Raise UserError for a batch (the total) that `size` devices cannot share equally."""
    if size == 1:
        return
    if not float(batch).is_integer() or batch < 1:
        raise UserError(
            f"batch={batch} is searched for on one GPU; {size} devices need a number, their total: for example "
            f"batch={16 * size}."
        )
    if batch % size:
        near = max(round(batch / size), 1) * size
        raise UserError(
            f"batch={batch:g} is the total of {size} devices and must be a multiple of {size}: for example "
            f"batch={near}."
        )


def _environment() -> World:
    """The World of torchrun's environment variables. Raises UserError where they are incomplete or wrong."""
    values = {name: os.environ.get(name, "") for name in VARIABLES}
    if not any(values[name] for name in VARIABLES[:3]):  # schedulers set an address for other purposes
        return World()
    repair = "Start with torchrun, which sets them all, or unset them."
    missing = [name for name, text in values.items() if not text]
    if missing:
        present = [name for name, text in values.items() if text]
        raise UserError(f"{', '.join(present)} are set, {', '.join(missing)} not. {repair}")
    numbers = (values[name] for name in VARIABLES[:3])
    rank, size, local = (int(text) if text.isdecimal() else -1 for text in numbers)
    if not 0 <= rank < size or not 0 <= local < size:
        raise UserError(
            f"RANK={values['RANK']}, WORLD_SIZE={values['WORLD_SIZE']}, LOCAL_RANK={values['LOCAL_RANK']} fit no set "
            f"of processes. {repair}"
        )
    return World(rank, size, local)


def _leave(abort: bool) -> None:
    """Leave the group of processes; abort: without waiting, as after an error, when other ranks may be elsewhere."""
    abort_group = getattr(dist.distributed_c10d, "_abort_process_group", None)
    with contextlib.suppress(RuntimeError, ValueError):
        if abort and abort_group:
            abort_group()
        else:
            dist.destroy_process_group()  # closing nccl waits for all ranks


def _has_unused_parameters(model: nn.Module) -> bool:
    """Whether no output depends on some trainable parameter, as with rows of the graph that no other row reads."""
    trial = copy.deepcopy(model).eval()
    parameters = [parameter for parameter in trial.parameters() if parameter.requires_grad]
    side = 2 * model.multiple
    image = torch.zeros(1, model.graph.channels, side, side, dtype=parameters[0].dtype, device=parameters[0].device)
    with torch.enable_grad():
        total = sum(output.sum() for output in trial(image).values())
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return any(gradient is None for gradient in gradients)


def _exchange_together(tensors: Iterable[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """Put tensors through `exchange`, which works in place, as one flat tensor for each type: few messages."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = torch.cat([tensor.flatten() for tensor in group])
        exchange(flat)
        for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.view(tensor.shape))
