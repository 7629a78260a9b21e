"""Ranks that fall silent or lose the first one: the others end, with a line that names the rank and how to resume."""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch.distributed as dist
from typing_extensions import override

from common.checks import require_range
from lightning_modules.run.ranks import LATE, RankLauncher

BEAT = 1.0  # seconds between beats
ASLEEP = 5.0  # seconds beyond a beat after which this process itself has been stopped
DISTRIBUTED = os.path.join("torch", "distributed")  # folder of the code in which a rank waits for others


@dataclass(frozen=True)
class Place:
    """Where the main thread of a rank is.

    Args:
        name: How far it is, and "waits" or "works".
        since: When it was first seen there, seconds of time.monotonic.
    """

    name: str
    since: float


class Heartbeats(pl.Callback):
    """While several ranks work, each tells the first one that it lives, and all end when one has been silent.

    The beats come from a thread of their own, so that neither a long step nor a long validation is silence; a process
    that is stopped, a machine that hangs or a broken network is. With its beats a rank tells how many steps and
    pictures it has made and whether it waits for others: one that stays where it is while another waits has stalled.
    (Waits of NCCL are not seen; the time limit of the process group meets those.)

    Args:
        silence: Seconds without a beat after which a rank counts as lost, >= 5.
        stall: Seconds in one place after which a rank that lives counts as lost, where another waits as long, >= 5. As
            long may it be silent in the export after training, which keeps all its threads waiting.

    Raises:
        InputError: An option is impossible.
    """

    def __init__(self, silence: float = 30.0, stall: float = 600.0):
        require_range("silence", silence, 5)
        require_range("stall", stall, 5)
        self.silence, self.stall = silence, stall
        self.moves = 0  # that the main thread has made
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer)

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer)

    def _begin(self, trainer: pl.Trainer) -> None:
        if trainer.world_size == 1:
            return
        environment = trainer.strategy.cluster_environment
        self.rank, self.world = trainer.global_rank, trainer.world_size
        launcher = trainer.strategy.launcher
        self.launcher = launcher if isinstance(launcher, RankLauncher) else None
        self.child = self.rank > 0 and trainer.node_rank == 0 and self.launcher is not None and self.launcher.starts
        port = self._open(environment.main_address, 0) if self.rank == 0 else None
        port = trainer.strategy.broadcast(port)
        if self.rank > 0:
            self._open(environment.main_address, port)
        self._start()

    def _open(self, address: str, port: int) -> int:
        more = {"timeout": timedelta(seconds=self.silence), "wait_for_workers": False}
        self.store = dist.TCPStore(address, port, is_master=self.rank == 0, **more)
        return self.store.port

    def _start(self) -> None:
        self._over, self.allowed = threading.Event(), self.silence
        now = time.monotonic()
        self.heard = dict.fromkeys(range(self.world) if self.rank == 0 else [0], now)  # when each rank was
        self.places: dict[int, Place] = {}  # where the first rank has seen each rank
        jobs = [self._listen] if self.rank == 0 else [self._beat]
        self._threads = [threading.Thread(target=job, args=(self._over,), daemon=True) for job in [*jobs, self._judge]]
        for thread in self._threads:
            thread.start()

    def _listen(self, over: threading.Event) -> None:
        beats: dict[int, bytes] = {}
        while not over.wait(BEAT):
            self._hear(0, self._place())
            for rank in range(1, self.world):
                beat = self.store.get(str(rank)) if self.store.check([str(rank)]) else b""
                if beat != beats.get(rank):
                    beats[rank] = beat
                    self._hear(rank, beat.decode().partition(" ")[2])

    def _hear(self, rank: int, place: str) -> None:
        self.heard[rank] = time.monotonic()
        if rank not in self.places or self.places[rank].name != place:
            self.places[rank] = Place(place, self.heard[rank])

    def _place(self) -> str:
        """How far the main thread is, and whether it waits for another rank."""
        frame = sys._current_frames().get(threading.main_thread().ident)
        while frame is not None and DISTRIBUTED not in frame.f_code.co_filename:
            frame = frame.f_back
        return f"{self.moves} {'waits' if frame is not None else 'works'}"

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(BEAT):
            try:
                number = self.store.add(f"beats of {self.rank}", 1)  # waits for the first rank's answer, unlike set
                self.store.set(str(self.rank), f"{number} {self._place()}")
            except (RuntimeError, dist.DistError):
                if not over.wait(LATE):
                    self._end("rank 0 ended")
                return
            self.heard[0] = time.monotonic()

    def _judge(self, over: threading.Event) -> None:
        last = time.monotonic()
        while not over.wait(BEAT):
            now = time.monotonic()
            if now - last > BEAT + ASLEEP:  # this process was stopped, and perhaps all of them, as by Ctrl-Z
                self.heard = dict.fromkeys(self.heard, now)
                self.places = {}
            last = now
            for rank, heard in self.heard.items():
                if now - heard > self.allowed:
                    self._end(f"rank {rank} has been silent for {self.allowed:g} s")
            long = {rank: place.name for rank, place in dict(self.places).items() if now - place.since > self.stall}
            still = [rank for rank, place in long.items() if place.endswith("works")]
            if still and len(still) < len(long):
                self._end(f"rank {still[0]} has stayed in one place for {self.stall:g} s while others wait for it")

    def _end(self, words: str) -> NoReturn:
        resume = self.launcher.resume if self.launcher is not None else ""
        words += f"; resume: {resume}" if resume else ""
        if self.rank == 0 and self.launcher is not None:
            self.launcher.end(words)
        print(f"vsd: {words}", file=sys.stderr, flush=True)
        if self.child:
            os.kill(os.getppid(), signal.SIGKILL)  # the first rank, which else stays stopped
        os._exit(1)

    def _move(self, *_: Any) -> None:
        self.moves += 1

    on_train_batch_start = on_train_batch_end = on_before_optimizer_step = _move
    on_validation_batch_start = on_validation_batch_end = on_test_batch_start = on_test_batch_end = _move
    on_validation_end = on_save_checkpoint = _move

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._move()
        if self._threads:
            trainer.strategy.barrier()  # the first rank may still write a checkpoint, and allow no long silence yet
        self.allowed = max(self.silence, self.stall)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not self._over.is_set() and self._threads:
            trainer.strategy.barrier()  # none ends while another still tells that it lives
        self._over.set()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._over.set()


def moved(trainer: pl.Trainer) -> None:
    """Tells the heartbeats that the main thread goes on, where it makes no step.

    Args:
        trainer: That trains.
    """
    for callback in trainer.callbacks:
        if isinstance(callback, Heartbeats):
            callback.moves += 1
