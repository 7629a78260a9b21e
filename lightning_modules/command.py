"""What the command `vsd` does: LightningCLI with interpolation across files and run folders for stages.

A stage's run lies in a run folder (see lightning_modules.run.folder); other modules run as LightningCLI runs them.
"""

import os
import pydoc
import re
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
from jsonargparse import ActionYesNo
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from typing_extensions import override

from common.errors import InputError
from common.files import atomic_write
from lightning_modules.parallel import ParticleParallelStrategy
from lightning_modules.run.config import choose, hide_places, log_offline, place, set_wandb_id
from lightning_modules.run.folder import CONFIG, RunFolder, resume_command
from lightning_modules.run.hardware import require_device
from lightning_modules.run.heartbeat import Heartbeats
from lightning_modules.run.live_page import require_viser
from lightning_modules.run.options import require_sane, require_stage_trains
from lightning_modules.run.parent import FirstRank
from lightning_modules.run.progress import progress
from lightning_modules.run.ranks import LATE, RankLauncher, lost, require_all_ranks
from lightning_modules.run.saving import LastCheckpoint
from lightning_modules.run.stopping import AgreedStop, AnswerAtOnce, Requeue, Stoppable, Terminable, ending
from lightning_modules.run.viewer import Viewer
from lightning_modules.stage import Stage


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run folder of a stage and shows it in the loggers.

    The file names no run folder and no checkpoint, so that it starts a new run, or with `--ckpt_path last` resumes the
    run in whose folder it lies.
    """

    @override
    def setup(self, trainer: pl.Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, Stage):
            super().setup(trainer, pl_module, stage)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: LightningModule) -> None:
        # Not earlier: a resume that is refused while the checkpoint is restored leaves the record as it is.
        if isinstance(pl_module, Stage) and trainer.is_global_zero:
            config = self.config.clone()
            config.trainer.default_root_dir = config.ckpt_path = None
            config.view = False  # of this session alone
            with atomic_write(Path(trainer.default_root_dir) / CONFIG) as part:
                self.parser.save(config, part, skip_none=False, overwrite=True, multifile=False)
            words = {key: value for key, value in config.as_dict().items() if key != "config"}  # the files it came from
            for logger in trainer.loggers:
                logger.log_hyperparams(words)


class Command(LightningCLI):
    """LightningCLI with run folders for stages.

    It has more keys: `prompt`, which configurations refer to as ${prompt}; `checkpoint`, a stage's LastCheckpoint;
    `view`, whether there is a live view, and `viewer`, its Viewer.
    """

    run_folder: RunFolder | None = None

    def __init__(self, *args: Any, **more: Any):
        try:
            with Terminable():
                super().__init__(*args, **more)
                if self.run_folder is not None and isinstance(self.trainer.strategy.launcher, RankLauncher):
                    self.trainer.strategy.launcher.wait()
        except BaseException as error:
            self._close(failed=True)
            self._blame(error)
            if (how := ending(error)) is None:
                raise
            self._exit(*how)
        self._close()

    def _blame(self, error: BaseException) -> None:
        """Ends the program where the error follows from the death of another rank."""
        launcher = getattr(getattr(getattr(self, "trainer", None), "strategy", None), "launcher", None)
        if isinstance(error, RuntimeError) and isinstance(launcher, RankLauncher):
            if not launcher.starts:
                if (words := lost(error)) is not None:
                    self._exit(1, f"rank {rank_zero_only.rank}: {words}", everywhere=True)
            elif rank_zero_only.rank > 0:
                time.sleep(2 * LATE)  # in which the first rank names the dead one and ends this one
            elif (words := launcher.dead_soon()) is not None:
                launcher.end(words)

    def _exit(self, code: int, words: str, everywhere: bool = False) -> NoReturn:
        """Ends the program with one line, of one rank or of all, which says how the run is resumed where there is one.

        (A rank that was started on its own may have another stamp in `self.run_folder` than the first.)
        """
        folder = getattr(getattr(self, "model", None), "run_folder", getattr(self.run_folder, "path", None))
        if folder is not None and (folder / CONFIG).exists():
            words += f"; resume: {resume_command(folder)}"
        if rank_zero_only.rank == 0 or everywhere:
            print(f"vsd: {words}", file=sys.stderr)
        sys.exit(code)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--prompt", type=str | None, default=None, help="The object to create, for ${prompt}.")
        parser.add_class_arguments(LastCheckpoint, "checkpoint")
        words = "Show the particles on a page of this machine while they train (fit alone)."
        parser.add_argument("--view", action=ActionYesNo(yes_prefix="", no_prefix="no_"), default=False, help=words)
        parser.add_class_arguments(Viewer, "viewer")
        parser.set_defaults({"trainer.enable_model_summary": False})  # a table of parameters, on every stage

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        require_sane(self.config[self.config.subcommand])

    @override
    def _parse_ckpt_path(self) -> None:
        pass  # checkpoints of stages hold no hyper-parameters; in Lightning those would win over the command line

    @override
    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        kind = pydoc.locate(config.model.class_path)
        if config.get("view") and self.subcommand == "fit":
            require_viser()
            if not hasattr(kind, "picture"):
                raise InputError(f"--view: {config.model.class_path} shows no object; leave it out")
        if not (isinstance(kind, type) and issubclass(kind, Stage)):
            return
        if self.subcommand == "fit":
            require_stage_trains(config)
            require_device(config)
        self.run_folder, checkpoint = choose(config, self.subcommand == "fit")
        if rank_zero_only.rank == 0:
            self.run_folder.reserve(alone=self.subcommand == "fit")
            set_wandb_id(config, self.run_folder.path)
            hide_places()
            print(f"run folder: {os.path.relpath(self.run_folder.path)}")
            if log_offline(config):
                print("wandb: offline, no key is set; `wandb login` for the next run, `wandb sync` for this one")
        self.given, self.config = self.config, self.config.clone()
        self.config[self.subcommand] = place(config, self.run_folder.path, checkpoint)

    @override
    def instantiate_trainer(self, **more: Any) -> pl.Trainer:
        if self.run_folder is not None:
            self.config = self.given  # config.yaml does not name the run folder
            config = self.config_init[self.subcommand]
            callbacks = list(config.trainer.callbacks or [])
            if config.trainer.enable_checkpointing is not False:
                callbacks.append(config.checkpoint)
            own_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
            if config.trainer.enable_progress_bar is not False and not own_bar:
                callbacks.append(progress())
            if not any(isinstance(callback, Heartbeats) for callback in callbacks):
                callbacks.append(Heartbeats())
            if config.view and self.subcommand == "fit":
                callbacks.append(config.viewer)
            callbacks += [AgreedStop(), Requeue(), AnswerAtOnce()]
            config.trainer.callbacks = list(callbacks)  # which Lightning extends
        trainer = self._trainer(**more)
        if self.run_folder is None:
            return trainer
        require_all_ranks(trainer)
        if trainer.world_size == 1:
            return trainer
        if isinstance(trainer.strategy, ParticleParallelStrategy):
            return self._named(trainer)
        if config.trainer.strategy not in ("auto", "ddp"):
            raise InputError(
                f"trainer.strategy: '{config.trainer.strategy}' knows nothing of particles; leave it out, and several "
                "devices get lightning_modules.parallel.ParticleParallelStrategy"
            )
        config.trainer.strategy, config.trainer.callbacks = ParticleParallelStrategy(), callbacks
        return self._named(self._trainer(**more))

    def _named(self, trainer: pl.Trainer) -> pl.Trainer:
        if isinstance(trainer.strategy.launcher, RankLauncher):
            trainer.strategy.launcher.resume = FirstRank.resume = resume_command(self.run_folder.path)
        return trainer

    def _trainer(self, **more: Any) -> pl.Trainer:
        try:
            return super().instantiate_trainer(**more)
        except (ImportError, TypeError, ValueError, MisconfigurationException) as error:  # an option it cannot take
            options = vars(self.config_init[self.subcommand].trainer)
            named = [name for name in options if re.search(f"[`(]{name}[`=]", str(error))]
            named += ["accelerator"] if "backend" in str(error) or options["accelerator"] == "tpu" else []
            raise InputError(f"{'.'.join(['trainer', *named[:1]])}: {error}") from error

    def fit(self, **arguments: Any) -> None:
        """Trainer.fit, which Ctrl-C and SIGTERM stop after the step, with a checkpoint.

        Args:
            arguments: Of Trainer.fit.
        """
        if self.run_folder is None:
            return self.trainer.fit(**arguments)
        self.model.require_inputs(arguments.get("ckpt_path"))
        with Stoppable(self.trainer) as stoppable:
            try:
                self.trainer.fit(**arguments)
            except SIGTERMException as error:
                stoppable.report(self.run_folder)
                code = 128 + error.args[0] if error.args else stoppable.code
                sys.exit(code if self.trainer.is_global_zero else 0)  # the first rank's code is that of the run

    def after_fit(self) -> None:
        """Renders the turntable of what was trained."""
        tests = type(self.model).test_step is not LightningModule.test_step and self.trainer.limit_test_batches != 0
        if self.run_folder is not None and tests:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def _close(self, failed: bool = False) -> None:
        trainer = getattr(self, "trainer", None)
        if self.run_folder is None:
            return
        if trainer is not None and any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            import wandb  # takes a second

            if wandb.run is not None:
                wandb.finish(int(failed))
        if failed and (trainer is None or trainer.global_step == 0):
            self.run_folder.discard()
        self.run_folder.release()
