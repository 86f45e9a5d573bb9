"""Training on several devices: one process each, gradients averaged by DistributedDataParallel, rank 0 writes the files.

Paper: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training" (VLDB 2020). Written from
spec/interface.md 6.10. The processes come from torchrun, or from torch's elastic launcher, which is what torchrun runs.
What has to be alike on all ranks is alike for these reasons: the weights start as rank 0's (DistributedDataParallel sends
them) and every rank makes the same step from the same averaged gradient; the loss scale follows from that gradient; every
rank's share of a batch is seeded by (seed, epoch, batch), not by what the process did before.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config.errors import UserError

TIMEOUT = timedelta(
    minutes=30
)  # the others wait while rank 0 writes or reads; a rank that dies is noticed by its launcher
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Lost(UserError):
    """Another process of the training does not answer any more; what happened to it is told there."""


_joined = itertools.count()  # groups that this process was in; equal on all ranks, which join together


@dataclass(frozen=True)
class World:
    """The processes that train together; this one is `rank` of `size`, and number `local_rank` on its machine.

    A World of one process does nothing, so that a loop needs no branches. Methods that exchange something must be called by
    all ranks in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def gather(self, parts: Sequence[object]) -> list:
        """The items of every rank's `parts`, in the order of ranks; every rank gets all. Items are pickled."""
        if self.size == 1:
            return list(parts)
        found: list = [None] * self.size
        dist.all_gather_object(found, list(parts))
        return [item for items in found for item in items]

    def mean(self, tensor: Tensor) -> Tensor:
        """The average over the ranks of a floating tensor; `tensor` itself stays as it is."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total / self.size

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank. Goes over the CPU: no GPU is waited for."""
        if self.size == 1:
            return bool(flag)
        raised = torch.tensor([int(flag)])
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised)

    def broadcast(self, value):
        """Rank 0's `value` (anything that pickles), on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

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
        """`model` with batch norms that normalise over the images of all ranks: in place, on GPUs only.

        Parameters and buffers stay the same tensors under the same names. Copy the model for the EMA before: the copy then
        keeps nn.BatchNorm2d, which is what folding and odd_norms know.
        """
        on_gpu = all(parameter.device.type == "cuda" for parameter in model.parameters())
        return nn.SyncBatchNorm.convert_sync_batchnorm(model) if self.size > 1 and on_gpu else model

    def wrap(self, model: nn.Module) -> nn.Module:
        """The network to run forward and backward: with several processes DistributedDataParallel(model), else `model`.

        Freeze before, and keep `model` for all else: its parameters are those that are trained. Buffers are not sent at
        every forward: training does not read running statistics. Files are written by rank 0, so its statistics are the
        ones that count; `share` brings them to all where they are read.
        """
        if self.size == 1:
            return model
        device = next(model.parameters()).device
        # not static_graph: it looks for tensors in tuples and plain dicts, and Raw is a dict of its own kind
        network = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            find_unused_parameters=bool(_unreached(model)),
        )
        network.broadcast_buffers = False  # the argument has another name in newer torch, the attribute has both
        return network

    def accumulating(self, network: nn.Module) -> contextlib.AbstractContextManager:
        """A context for forward and backward of a batch that no step follows: gradients stay on their rank."""
        return network.no_sync() if self.size > 1 else contextlib.nullcontext()

    def scale_loss(self, total: Tensor) -> Tensor:
        """The loss to run backward from. A batch's loss is a sum over its images, and gradients are averaged over the ranks:

        times their number they become the sum that one process gets from all shares one after the other.
        """
        return total * self.size if self.size > 1 else total

    @torch.no_grad()
    def settle(self, model: nn.Module) -> None:
        """Average, in place, gradients that wait for a step, before a checkpoint holds them.

        What rank 0 writes is then whole, and a run that goes on from it, on any number of processes, steps from the same sum.
        """
        if self.size > 1:
            waiting = [p.grad for p in model.parameters() if p.grad is not None]
            _together(waiting, lambda flat: dist.all_reduce(flat.div_(self.size)))

    @torch.no_grad()
    def share(self, *modules: nn.Module) -> None:
        """Give every rank rank 0's buffers, as before a validation that all ranks take part in."""
        if self.size > 1:
            _together([b for module in modules for b in module.buffers()], lambda flat: dist.broadcast(flat, src=0))


@contextmanager
def join(devices: Sequence[torch.device]) -> Iterator[World]:
    """The World that torchrun's environment describes, of one process where there is none; left again at the end.

    devices: this process's own, as devices.select_devices gives it. GPUs talk by nccl, CPUs (and plain values) by gloo. Raises
    UserError for an environment that is set by half, and devices that cannot train together.
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
    # a store of its own each time: in that of an earlier group the addresses of its closed connections are still found
    store = dist.PrefixStore(f"bitfalcon {next(_joined)}", store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if both else "gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT
    )
    try:
        yield world
    except BaseException as error:
        when = (
            time.time_ns()
        )  # the others fail a moment later, because this process is gone: launch.py looks for the first
        gone = isinstance(error, dist.DistError) or isinstance(error, RuntimeError) and "gloo" in str(error)
        problem = (
            error
            if not gone
            else Lost(
                f"Process {world.rank} of {world.size} (counted from 0) cannot reach the others: one of them ended, or the network did "
                f"({str(error).partition('. ')[0]})."
            )
        )
        problem.left_world = when
        _leave(abort=both)
        raise problem  # noqa: B904  it may be the error itself
    _leave(abort=False)


def check_batch(batch: float, size: int) -> None:
    """Raises UserError for a batch (the total) that `size` devices cannot share equally."""
    if size == 1:
        return
    if not float(batch).is_integer() or batch < 1:
        raise UserError(
            f"batch={batch} is looked for on one GPU; {size} devices need a number, their total: for example "
            f"batch={16 * size}."
        )
    if batch % size:
        near = max(round(batch / size), 1) * size
        raise UserError(
            f"batch={batch:g} is the total of {size} devices and must be a multiple of {size}: for example "
            f"batch={near}."
        )


def _environment() -> World:
    found = {name: os.environ.get(name, "") for name in VARIABLES}
    if not any(found[name] for name in VARIABLES[:3]):  # an address alone is no world: schedulers set it for others
        return World()
    repair = "Start with torchrun, which sets them all, or unset them."
    if missing := [name for name, text in found.items() if not text]:
        raise UserError(
            f"{', '.join(n for n, text in found.items() if text)} are set, {', '.join(missing)} not. {repair}"
        )
    rank, size, local = (int(text) if text.isdecimal() else -1 for text in (found[name] for name in VARIABLES[:3]))
    if not 0 <= rank < size or not 0 <= local < size:
        raise UserError(
            f"RANK={found['RANK']}, WORLD_SIZE={found['WORLD_SIZE']}, LOCAL_RANK={found['LOCAL_RANK']} fit no set of "
            f"processes. {repair}"
        )
    return World(rank, size, local)


def _leave(abort: bool) -> None:
    # Closing nccl in order waits for all ranks, and after an error they may be elsewhere: they learn of it by an abort.
    quit_at_once = getattr(dist.distributed_c10d, "_abort_process_group", None)
    with contextlib.suppress(RuntimeError, ValueError):
        quit_at_once() if abort and quit_at_once else dist.destroy_process_group()


def _unreached(model: nn.Module) -> list[str]:
    """Names of the parameters that ask for a gradient and get none from the outputs, as of rows that nobody reads."""
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not wanted:
        return []
    weight = next(iter(wanted.values()))
    modes = [(module, module.training) for module in model.modules()]
    image = torch.zeros(
        1, model.graph.channels, 2 * model.multiple, 2 * model.multiple, dtype=weight.dtype, device=weight.device
    )
    try:
        with torch.enable_grad():
            outputs = sum(output.sum() for output in model.eval()(image).values())
            gradients = torch.autograd.grad(outputs, list(wanted.values()), allow_unused=True)
    finally:
        for module, training in modes:
            module.training = training
    return [name for name, gradient in zip(wanted, gradients) if gradient is None]


def _together(tensors: Iterable[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """Put tensors through `exchange`, which works in place, as one flat tensor a type: one message instead of hundreds."""
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    for group in kinds.values():
        flat = torch.cat([tensor.flatten() for tensor in group])
        exchange(flat)
        for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group])):
            tensor.copy_(part.view(tensor.shape))
