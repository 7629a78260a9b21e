"""Ranks that fall silent or lose the first one: the others end, with a line that names the rank and how to resume."""

import os
import signal
import sys
import threading
import time
from datetime import timedelta
from typing import NoReturn

import pytorch_lightning as pl
import torch.distributed as dist
from typing_extensions import override

from common.checks import require_range
from lightning_modules.run.ranks import LATE, RankLauncher

BEAT = 1.0  # seconds between beats
ASLEEP = 5.0  # seconds beyond a beat after which this process itself has been stopped


class Heartbeats(pl.Callback):
    """While several ranks train, each tells the first one that it lives, and all end when one has been silent.

    The beats come from a thread of their own, so that neither a long step nor a long validation is silence; a process
    that is stopped, a machine that hangs or a broken network is. (A rank that lives and waits for ever is met by the
    time limit of the process group.) The export that follows training is not watched: it may keep all threads waiting.

    Args:
        silence: Seconds without a beat after which a rank counts as lost, >= 5.

    Raises:
        InputError: `silence` is impossible.
    """

    def __init__(self, silence: float = 30.0):
        require_range("silence", silence, 5)
        self.silence = silence
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size == 1:
            return
        environment = trainer.strategy.cluster_environment
        self.rank, self.world = trainer.global_rank, trainer.world_size
        launcher = trainer.strategy.launcher
        self.launcher = launcher if isinstance(launcher, RankLauncher) else None
        self.child = self.rank > 0 and trainer.node_rank == 0 and self.launcher is not None and self.launcher.starts
        more = {"timeout": timedelta(seconds=self.silence), "wait_for_workers": False}
        port = None
        if self.rank == 0:
            self.store = dist.TCPStore(environment.main_address, 0, is_master=True, **more)
            port = self.store.port
        port = trainer.strategy.broadcast(port)
        if self.rank > 0:
            self.store = dist.TCPStore(environment.main_address, port, is_master=False, **more)
        self._over.clear()
        now = time.monotonic()
        self.heard = dict.fromkeys(range(self.world) if self.rank == 0 else [0], now)  # when each rank was
        jobs = [self._listen] if self.rank == 0 else [self._beat]
        self._threads = [threading.Thread(target=job, daemon=True) for job in [*jobs, self._judge]]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        beats: dict[int, bytes] = {}
        while not self._over.wait(BEAT):
            self.heard[0] = time.monotonic()
            for rank in range(1, self.world):
                beat = self.store.get(str(rank)) if self.store.check([str(rank)]) else b""
                if beat != beats.get(rank):
                    beats[rank], self.heard[rank] = beat, time.monotonic()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            try:
                self.store.add(str(self.rank), 1)  # which waits for an answer of the first rank
            except (RuntimeError, dist.DistError):
                if not self._over.wait(LATE):
                    self._end("rank 0 ended")
                return
            self.heard[0] = time.monotonic()

    def _judge(self) -> None:
        last = time.monotonic()
        while not self._over.wait(BEAT):
            now = time.monotonic()
            if now - last > BEAT + ASLEEP:  # this process was stopped, and perhaps all of them, as by Ctrl-Z
                self.heard = dict.fromkeys(self.heard, now)
            last = now
            for rank, heard in self.heard.items():
                if now - heard > self.silence:
                    self._end(f"rank {rank} has been silent for {self.silence:g} s")

    def _end(self, words: str) -> NoReturn:
        resume = self.launcher.resume if self.launcher is not None else ""
        words += f"; resume: {resume}" if resume else ""
        if self.rank == 0 and self.launcher is not None:
            self.launcher.end(words)
        print(f"vsd: {words}", file=sys.stderr, flush=True)
        if self.child:
            os.kill(os.getppid(), signal.SIGKILL)  # the first rank, which else stays stopped
        os._exit(1)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._over.set()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._over.set()
