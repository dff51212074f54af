"""Processes that share a batch, kept alive over many tests, and what they are asked to do."""

from __future__ import annotations

import os
import queue
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import avcontrast

SECONDS = 900
"""How long processes may take on a busy machine, and wait for one that is lost."""


class Cluster:
    """Some gloo processes; ``run`` has each of them do the same and returns what each found."""

    def __init__(self, size):
        self.size = size
        self.folder = tempfile.TemporaryDirectory()
        context = mp.get_context("spawn")
        self.tasks = [context.Queue() for _ in range(size)]
        self.results = context.Queue()
        meeting_place = (Path(self.folder.name) / "store").as_uri()
        self.processes = [
            context.Process(
                target=serve, args=(rank, size, meeting_place, task, self.results), daemon=True
            )
            for rank, task in enumerate(self.tasks)
        ]
        for process in self.processes:
            process.start()

    def run(self, function, *args, **kwargs):
        outcomes = self.attempt(function, *args, **kwargs)
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                raise AssertionError(outcome.text)
        return outcomes

    def attempt(self, function, *args, **kwargs):
        """Like ``run``, with a ``Failure`` in the place of a process that raised."""
        self.ask(function, *args, **kwargs)
        outcomes = {}
        while len(outcomes) < self.size:
            try:
                rank, outcome = self.results.get(timeout=SECONDS)
            except queue.Empty:
                raise AssertionError(f"only ranks {sorted(outcomes)} answered") from None
            outcomes[rank] = outcome
        return [outcomes[rank] for rank in range(self.size)]

    def ask(self, function, *args, **kwargs):
        for task in self.tasks:
            task.put((function, args, kwargs))

    def close(self):
        for task in self.tasks:
            task.put(None)
        for process in self.processes:
            process.join(timeout=60)
            process.kill()
        self.folder.cleanup()


class Failure:
    def __init__(self, error):
        self.kind = type(error).__name__
        self.message = str(error)
        self.text = "".join(traceback.format_exception(error))


def serve(rank, size, meeting_place, tasks, results):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=meeting_place,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=SECONDS),
    )
    while (task := tasks.get()) is not None:
        function, args, kwargs = task
        try:
            outcome = function(*args, **kwargs)
        except Exception as error:
            outcome = Failure(error)
        results.put((rank, outcome))


class Model(nn.Module):
    """Two encoders and a loss, which holds the temperature if that is learnt."""

    def __init__(self, loss, settings, *, learn_temperature=False, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.visual = nn.Conv2d(3, 8, 1, dtype=dtype)
        self.audio = nn.Linear(5, 8, dtype=dtype)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
        temperature = torch.tensor(0.2, dtype=dtype)
        if learn_temperature:
            temperature = nn.Parameter(temperature)
        if "learn_temperature" in settings:
            temperature = 0.2
        self.loss = getattr(avcontrast, loss)(temperature, **settings).to(dtype)

    def forward(self, images, sounds, reading="forward", **call):
        visual, audio = self.visual(images), self.audio(sounds)
        if reading == "forward":
            return self.loss(visual, audio, **call)
        if reading == "views":
            views = [visual, visual**3], [audio, audio.flip(1)]
            return self.loss(*views, [view.mean((2, 3)) for view in views[0]], views[1])
        parts = self.loss.components(visual, audio, **call)
        return torch.stack(parts)


def batch(pairs, *, seed=0, dtype=torch.float64, size=(2, 3), frames=()):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(pairs, 3, *size, generator=generator, dtype=dtype)
    return images, torch.randn(pairs, *frames, 5, generator=generator, dtype=dtype)


def ignored(pairs):
    """Return a mask of known false negatives in a global batch."""
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(pairs, pairs, generator=generator) < 0.4).fill_diagonal_(False)


def matching(pairs):
    """Return a mask of further positives in a global batch, none of which is ignored."""
    generator = torch.Generator().manual_seed(4)
    return (torch.rand(pairs, pairs, generator=generator) < 0.4) & ~ignored(pairs)


def sample_weights(pairs):
    return torch.linspace(0.5, 1.5, pairs, dtype=torch.float64)


def part(tensors, rank=None, size=None):
    """Return what this process has of a global batch."""
    rank = dist.get_rank() if rank is None else rank
    size = dist.get_world_size() if size is None else size
    return [tensor.tensor_split(size)[rank] for tensor in tensors]


def weigh(value):
    """Make one number of several terms or samples, each with a weight of its own."""
    if value.ndim == 0:
        return value
    return (sample_weights(len(value)) * value).sum()


def step(loss, settings, pairs, *, learn_temperature=False, frames=(), **call):
    """Return loss and parameter gradients of one process with the whole batch."""
    model = Model(loss, settings, learn_temperature=learn_temperature)
    value = model(*batch(pairs, frames=frames), **call)
    weigh(value).backward()
    return value.detach(), grads_of(model)


def shared_step(loss, settings, pairs, *, learn_temperature=False, frames=(), **call):
    """Return the same of a process with a part of the batch, after DDP has averaged."""
    settings = {**settings, "gather_distributed": True}
    model = DistributedDataParallel(Model(loss, settings, learn_temperature=learn_temperature))
    value = model(*part(batch(pairs, frames=frames)), **call)
    weigh(value).backward()
    return value.detach(), grads_of(model.module)


def shared_step_ignoring(loss, settings, pairs, **call):
    """Return the same where each process names the false negatives of its own images."""
    ignore = part([ignored(pairs)])[0]
    call = {"learn_temperature": True, **call}
    return shared_step(loss, settings, pairs, ignore=ignore, **call)


def labels_of(pairs):
    """Return the classes of a global batch, some of them unknown."""
    return torch.arange(pairs) % 4 - 1


def shared_step_with_labels(loss, settings, pairs, **call):
    """Return the same where each process names the classes of its own pairs."""
    labels = part([labels_of(pairs)])[0]
    return shared_step(loss, settings, pairs, learn_temperature=True, labels=labels, **call)


def shared_step_with_positives(loss, settings, pairs, *, ignoring):
    """Return the same where each process names the further positives of its own images."""
    call = {"positives": part([matching(pairs)])[0]}
    if ignoring:
        call["ignore"] = part([ignored(pairs)])[0]
    return shared_step(loss, settings, pairs, learn_temperature=True, **call)


def grads_of(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def shared_components(backend, pairs, **call):
    """Return the terms, and the gradients of a weighted sum of them."""
    return shared_step("FNACLoss", {"backend": backend}, pairs, reading="components", **call)


def shared_samples(backend, pairs):
    """Return the losses of the own samples, and the gradients of a mean that weighs each."""
    settings = {"gather_distributed": True, "reduction": "none", "backend": backend}
    model = DistributedDataParallel(Model("FNACLoss", settings))
    values = model(*part(batch(pairs)))
    (values * part([sample_weights(pairs)])[0]).mean().backward()
    return values.detach(), grads_of(model.module)


def summing_step(backend, pairs):
    """Return the gradients of a training that adds up those of the processes."""
    settings = {"gather_distributed": True, "gradient_reduction": "sum", "backend": backend}
    model = Model("FNACLoss", settings, learn_temperature=True)
    value = model(*part(batch(pairs)))
    value.backward()
    grads = grads_of(model)
    for grad in grads.values():
        dist.all_reduce(grad)
    return value.detach(), grads


def temperature_beside_the_wrapped_model(backend, pairs):
    """Return the gradient of a temperature that DDP does not know of."""
    settings = {"gather_distributed": True, "backend": backend}
    model = Model("FNACLoss", settings, learn_temperature=True)
    images, sounds = part(batch(pairs))
    model.loss(model.visual(images), model.audio(sounds)).backward()
    return model.loss.temperature.grad


def in_groups_of_two(backend, pairs):
    """Return what a process learns when every other one shares its batch."""
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    mine = dist.get_rank() % 2
    settings = {"gather_distributed": True, "group": groups[mine], "backend": backend}
    model = DistributedDataParallel(Model("FNACLoss", settings), process_group=groups[mine])
    own = part(batch(pairs, seed=mine), rank=dist.get_rank() // 2, size=2)
    value = model(*own)
    value.backward()
    try:
        other = groups[1 - mine]
        Model("InfoNCE", {"gather_distributed": True, "group": other})(*own)
        message = ""
    except ValueError as error:
        message = str(error)
    return value.detach(), grads_of(model.module), message


def accumulated(backend, pairs):
    """Return the gradients of two batches, of which only the second synchronises."""
    settings = {"gather_distributed": True, "backend": backend}
    model = DistributedDataParallel(Model("FNACLoss", settings))
    with model.no_sync():
        model(*part(batch(pairs, seed=1))).backward()
    value = model(*part(batch(pairs, seed=2)))
    value.backward()
    return value.detach(), grads_of(model.module)


def fully_sharded(backend, pairs):
    """Return the gradients of a model whose parameters are sharded."""
    from torch.distributed.fsdp import fully_shard

    settings = {"gather_distributed": True, "backend": backend}
    mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    model = Model("FNACLoss", settings)
    fully_shard(model, mesh=mesh)
    value = model(*part(batch(pairs)))
    value.backward()
    grads = {name: grad.full_tensor() for name, grad in grads_of(model).items()}
    return value.detach(), grads


def under_autocast(backend, pairs):
    """Return loss and gradients of encoders in bf16."""
    settings = {"gather_distributed": True, "backend": backend}
    model = DistributedDataParallel(Model("FNACLoss", settings, dtype=torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        value = model(*part(batch(pairs, dtype=torch.float32)))
    value.backward()
    return value.detach(), grads_of(model.module)


def compiled(loss, settings, pairs, compiler):
    """Return loss and gradients of a compiled loss, for two strengths of its terms."""
    model = Model(loss, {**settings, "gather_distributed": True}, learn_temperature=True)
    wrapped = DistributedDataParallel(model)
    model.loss.compile(fullgraph=True, backend=compiler)
    results = []
    for strength in (1.0, 0.5):
        wrapped.zero_grad()
        value = wrapped(*part(batch(pairs)), regularization=strength)
        value.backward()
        results.append((value.detach(), {k: v.clone() for k, v in grads_of(model).items()}))
    return results


def disagreeing(settings_of, pairs_of, dtypes, frames_of=(1, 1, 1, 1)):
    """Call the loss with what each rank is told to bring."""
    rank = dist.get_rank()
    dtype = getattr(torch, dtypes[rank])
    settings = {"gather_distributed": True, **settings_of[rank]}
    temperature = settings.pop("temperature", 0.1)
    if "learnable" in settings:
        temperature = torch.tensor(settings.pop("learnable"), requires_grad=True)
    ignore = part([ignored(sum(pairs_of))])[0] if settings.pop("ignore", False) else None
    criterion = avcontrast.FNACLoss(temperature, **settings)
    images, sounds = batch(pairs_of[rank], dtype=dtype)
    sounds = sounds[:, :3, None].expand(-1, -1, frames_of[rank])
    return criterion(images[:, :3], sounds, ignore=ignore).item()


def unequal_on_a_device(unequal):
    """Compare learnable temperatures where their values cannot be read without a wait."""
    from avcontrast import distributed

    peers = distributed.find_peers(True, None)
    temperature = torch.tensor(0.1 + unequal * dist.get_rank())
    reads = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "_is_at_hand", lambda *_: False)
        patch.setattr(torch.Tensor, "item", lambda tensor: reads.append(tensor))
        distributed.check_agreement(*batch(4), peers, {}, temperature)
    return len(reads)


def with_a_mask_of_the_own_pairs(backend, name):
    """Call the loss with a mask that has no columns for the sounds of others."""
    images, sounds = batch(4)
    criterion = avcontrast.InfoNCE(gather_distributed=True, backend=backend)
    criterion(images, sounds[:, :3], **{name: ignored(4)})


def with_positives_on_the_first(backend):
    """Call the loss with positives on one process alone."""
    images, sounds = batch(4)
    criterion = avcontrast.InfoNCE(gather_distributed=True, backend=backend)
    call = {"positives": part([matching(8)])[0]} if dist.get_rank() == 0 else {}
    criterion(images, sounds[:, :3], **call)


def with_more_views_on_the_last(backend):
    """Call the loss with one view of each image on the first process, and two on the second."""
    images, sounds = batch(4)
    criterion = avcontrast.AlignmentLoss(gather_distributed=True, backend=backend)
    count = 1 + dist.get_rank()
    vectors = [images.mean((2, 3))] * count
    criterion([images] * count, [sounds[:, :3]], vectors, [sounds[:, :3]])


def operators_pass_opcheck():
    """Check what a compiler is told of each exchange."""
    from avcontrast import distributed
    from avcontrast.ops import blockwise
    from avcontrast.ops._settings import TERMS, Settings

    peers = distributed.find_peers(True, None)
    tensor = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    for operator in (distributed._gather, distributed._scatter_sum, distributed._total):
        torch.library.opcheck(operator, (tensor, *peers))
    torch.library.opcheck(distributed._replicated, (tensor.sum().detach(), *peers))
    torch.library.opcheck(distributed._highest, (tensor.detach(), *peers))
    for temperature in (None, torch.tensor(0.2)):
        told = (tensor, tensor.detach(), temperature, "a=1")
        torch.library.opcheck(distributed._agreed, (*told, *peers))
    visual = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    terms, *options = Settings(TERMS, anchor="audio")
    for ignore in (None, part([ignored(8)])[0]):
        arguments = (visual, tensor, tau, ignore, " ".join(terms), *options, *peers, True)
        torch.library.opcheck(blockwise._contrast, arguments)


def paired_features(pairs):
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(pairs, 20, generator=generator)
    visual = torch.randn(pairs, 20, 2, 3, generator=generator)
    return visual + audio[:, :, None, None] / 2, audio


def kernels_step(backend, options, pairs):
    """Return the loss and this process's feature gradients, computed by the interpreted kernels."""
    from avcontrast import ops

    ops._lacking = lambda device: []
    inputs = [x.requires_grad_() for x in part(paired_features(pairs))]
    options = {**options, "gather_distributed": True, "gradient_reduction": "sum"}
    if "ignore" in options:
        options["ignore"] = part([options["ignore"]])[0]
    loss = avcontrast.functional.fnac(*inputs, backend=backend, **options).loss
    return loss.detach(), *torch.autograd.grad(loss, inputs)


def peak_of_a_step(pairs, channels, size):
    """Return the extra bytes of a step of this process, and those of its gradients."""
    from test_memory import extra_bytes

    visual = torch.randn(pairs, channels, *size, requires_grad=True)
    audio = torch.randn(pairs, channels, requires_grad=True)
    criterion = avcontrast.FNACLoss(gather_distributed=True, backend="blockwise")
    highest, _ = extra_bytes(lambda: criterion(visual, audio).backward())
    return highest - 4 * (visual.numel() + audio.numel())


def die_or_go_on(when):
    """Lose rank 1 before its forward pass or between the two passes."""
    model = Model("FNACLoss", {"gather_distributed": True})
    tensors = part(batch(8))
    if when == "before" and dist.get_rank() == 1:
        os._exit(1)
    value = model(*tensors)
    if dist.get_rank() == 1:
        os._exit(1)
    value.backward()
