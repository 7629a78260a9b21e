"""Two steps of a training of the prior's parts, through the command."""

from pathlib import Path

from lightning_modules.cli import main
from vsd.prior import load_pipeline

ROOT = Path(__file__).parents[3]


def arguments(part, folder, *more, batch_size=8, steps=2):
    """The arguments of `vsd fit` for a part ("autoencoder", "prior", "image_tower"); its files lie beside `folder`."""
    return [
        "fit",
        "--config",
        str(ROOT / "configs" / "toybox" / f"{part}.yaml"),
        f"--model.folder={folder}",
        f"--trainer.default_root_dir={folder.parent}",
        f"--trainer.logger.init_args.save_dir={folder.parent / 'logs'}",
        f"--trainer.callbacks.path={checkpoint(part, folder)}",
        "--data.train=96",
        "--data.held_out=96",
        f"--data.batch_size={batch_size}",
        *(["--data.group=4"] if part == "image_tower" else []),
        f"--trainer.max_steps={steps}",
        f"--trainer.val_check_interval={steps}",
        "--trainer.limit_val_batches=1",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.precision=32-true",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        *more,
    ]


def checkpoint(part, folder):
    return folder.parent / part / "last.ckpt"


def fit(part, folder, *more, **sizes):
    main(arguments(part, folder, *more, **sizes))


def weights(folder, part):
    return getattr(load_pipeline(folder), part).state_dict()


def same(a, b):
    """Whether two dictionaries of tensors are equal to the bit."""
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)
