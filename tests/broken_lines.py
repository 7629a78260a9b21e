"""Broken command lines and configurations of every command, generated from its options and what they are documented as.

A case is wrong whatever it means: a value that its option's type, documented range or kind rules out, an option that
there is not, a reference to nothing, two options that contradict each other.
"""

import argparse
import importlib
import inspect
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import pytorch_lightning as pl
import yaml
from small_runs import GEOMETRY, NERF, SMALL, TEXTURE, TINY

from datamodules.random_cameras import RandomCameras
from lightning_modules.geometry import GeometryStage
from lightning_modules.image import ImageStage
from lightning_modules.nerf import NerfStage
from lightning_modules.run.saving import LastCheckpoint
from lightning_modules.texture import TextureStage
from vsd.guidance import VSDGuidance

GUIDANCE = "trainer.callbacks"
STAGES = {"nerf": NerfStage, "image": ImageStage, "geometry": GeometryStage, "texture": TextureStage}
STEP = "--trainer.max_steps=1"
IMAGE = [option for option in TINY if option.startswith("--trainer")]
LINES = {  # that each would train, if nothing were wrong
    "nerf": ["--config", NERF, *SMALL, STEP],
    "image": ["--config", str(Path(NERF).with_name("image.yaml")), *IMAGE, STEP],
    "geometry": ["--config", str(Path(NERF).with_name("geometry.yaml")), *GEOMETRY, STEP, "--model.nerf=nowhere"],
    "texture": ["--config", str(Path(NERF).with_name("texture.yaml")), *TEXTURE, STEP, "--model.nerf=nowhere"],
}
DUCK, LONG, BEYOND = "\N{DUCK}", "x" * 10_000, "9" * 20
ALIAS = "&a [*a]"  # a list of itself
WORDS: dict[Any, list[str]] = {  # that are no value of a type
    int: ["1.5", "many", ".nan", ".inf", "[1]", "{a: 1}", DUCK, BEYOND, "-" + BEYOND, "*a", ALIAS, "null", LONG],
    float: ["often", ".nan", ".inf", "-.inf", "1e999", "[1]", "{a: 1}", DUCK, "*a", ALIAS, "null", LONG],
    bool: ["maybe", "7", ".nan", "[true]", "{a: 1}", DUCK, "*a", "null"],
    str: ["a\0b", LONG],
    list: ["often", "7", "{a: 1}", DUCK],
    tuple: ["often", "7", "{a: 1}", "[.nan, .nan]", "[many, 1]", "[1]", "[1, 2, 3]", "[3, 1]", DUCK],
    dict: ["often", "7", "[1]", DUCK],
    Literal: ["best", "7", "[1]", DUCK, ".nan", ""],
}
# Numbers that may be below zero; all others of a stage, its cameras and its guidance are counts, sizes and weights.
SIGNED = re.compile(r"azimuth|elevation|strength|trainer\.(?!callbacks)|betas")
SIZES = re.compile("^(Pixels|Cells|Texels|Width|Number of particles|Vertices|Views of a step|Cameras of|Intervals)")
HUGE = "900000000"
MILESTONE = {"step": 0, "resolution": 16, "batch_size": 1}
FREE = ("profiler", "plugins", "logger", "strategy", "accelerator", "callbacks", "barebones", "model_registry")
CONFLICTS = {
    "nerf": [
        (["--model.particles=2", "--model.particles_per_step=3"], "particles_per_step"),
        (["--model.particles=2", "--model.particles_per_step=2"], "particles"),
        ([f"--{GUIDANCE}.timesteps.low=0.9", f"--{GUIDANCE}.timesteps.high=0.1"], "timesteps.low"),
        ([f"--{GUIDANCE}.perp_neg=1", f"--{GUIDANCE}.views=null"], "perp_neg"),
        ([f"--{GUIDANCE}.reduction=none"], "reduction"),
        ([f"--{GUIDANCE}.score.shared_forward=true", f"--{GUIDANCE}.score.replay=4"], "score.replay"),
        ([f"--{GUIDANCE}.savings.encoder_until=4"], "savings.encoder_until"),
        (["--data.validation_frames=3", "--data.eval_frames=2"], "data.validation_frames"),
        (["--data.cameras.distance=[0.1, 0.2]"], "data.cameras.distance"),
        (["--data.milestones=[]"], "data.milestones"),
        (["--data.milestones=[{step: 5, resolution: 8, batch_size: 1}]"], "data.milestones"),
        (["--trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches"),
        (["--trainer.callbacks=null"], "trainer.callbacks"),
        (["--ckpt_path=last"], "ckpt_path"),
        (["--ckpt_path=nowhere.ckpt"], "ckpt_path"),
        (["--trainer.default_root_dir=/proc/nowhere"], "trainer.default_root_dir"),
        (["--trainer.default_root_dir=../../../../../../../proc/nowhere"], "trainer.default_root_dir"),
        *((["--trainer.accelerator=" + name], "trainer.accelerator") for name in ("gpu", "tpu", "mps", "hpu", "abc")),
        *((["--trainer.accelerator=gpu", f"--trainer.devices={n}"], "trainer.") for n in ("1", "99", "[7]", "-1")),
        *(([f"--trainer.devices={n}"], "trainer.devices") for n in ("0", "-2", "abc", "[0, 0]", "[]", "1.5", DUCK)),
        *(([f"--trainer.strategy={name}"], "trainer.strategy") for name in ("abc", DUCK, "../ddp")),
        *(([f"--seed_everything={value}"], "seed_everything") for value in ("-1", "x", "1.5", ".nan", "4294967296")),
        *(([f"--prompt={value}"], "prompt") for value in ("", " ", "../../a red car", "a red " + DUCK, LONG, "a\0b")),
        *(([f"--prompt={value}"], "nowhere") for value in ("${nowhere}", "a ${nowhere} car")),
        *(([f"--{GUIDANCE}.model={value}"], "odel") for value in ("nowhere/at/all", "../nowhere", "a\0b", "")),
        *(([f"--model={value}"], "model") for value in ("null", "7", "NoStage", "os.system", "../nerf")),
        *(([f"--data={value}"], "data") for value in ("7", "NoData", "os.system")),
    ],
    "image": [(["--model.particles=2", "--model.particles_per_step=3"], "particles_per_step")],
    "geometry": [(["--model.nerf=../nowhere"], "model.nerf"), (["--model.nerf="], "model.nerf")],
    "texture": [
        (["--model.nerf=null"], "model.nerf"),
        (["--model.mesh=nowhere.glb"], "model.mesh"),
        (["--model.mesh=nowhere.glb", "--model.nerf=null"], "model.mesh"),
        (["--model.mesh=/dev/zero", "--model.nerf=null"], "model.mesh"),
        (["--model.geometry=../nowhere"], "model."),
    ],
}


@dataclass(frozen=True)
class Case:
    """A broken command line.

    Args:
        program: "vsd", or the name of another command.
        args: Its arguments.
        named: What the one line of the answer must name.
        file: Text of the configuration broken.yaml, which the arguments name; None for none.
    """

    program: str
    args: list[str]
    named: str
    file: str | None = None

    def __str__(self) -> str:
        shown = " ".join(self.args if len(self.args) < 3 or self.program != "vsd" else [self.args[0], *self.args[-2:]])
        text = shown if self.file is None else f"{shown}: {self.file}"
        return repr(f"{self.program} {text}"[:140])


@dataclass(frozen=True)
class Option:
    """An option as its class has it.

    Args:
        key: As the command line has it.
        kinds: Its types, without None.
        optional: Whether it may be None.
        text: What its docstring says.
    """

    key: str
    kinds: tuple
    optional: bool
    text: str


def options_of(kind: type, key: str) -> Iterator[Option]:
    """The options that build an object, and those of its parts."""
    build = inspect.unwrap(kind.__init__)
    hints = get_type_hints(build)
    documents = (kind.__doc__ or "", build.__doc__ or "")
    texts = {p.arg_name: p.description or "" for text in documents for p in docstring_parser.parse(text).params}
    for name in list(inspect.signature(build).parameters)[1:]:
        hint = hints.get(name, Any)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        present = tuple(one for one in kinds if one is not type(None))
        yield Option(f"{key}.{name}", present, len(present) < len(kinds), texts.get(name, ""))
        for part in present:
            if is_dataclass(part) and len(present) == 1:  # else the words that take its place have no parts
                yield from options_of(part, f"{key}.{name}")


def accepts(kind: Any, word: str) -> bool:
    """Whether a word is a value of a type, ranges aside."""
    try:
        value = yaml.safe_load(word)
    except (yaml.YAMLError, RecursionError):
        value = word
    plain = get_origin(kind) or kind
    if plain is Literal:
        return value in get_args(kind)
    if plain is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if plain is int:
        return type(value) is int and abs(value) <= 10**9
    if plain is str:
        return "\0" not in word and len(word) < 256
    if plain in (list, tuple):
        return False  # the words of both are broken inside
    if is_dataclass(plain):
        return isinstance(value, dict)
    return type(value) is plain if plain in (bool, dict) else True


def words(option: Option) -> list[str]:
    """Values that are none of an option, of its types or outside its documented range."""
    found: list[str] = []
    for kind in option.kinds:
        plain = dict if is_dataclass(kind) else get_origin(kind) or kind
        found += WORDS.get(plain, [])
    found = [word for word in dict.fromkeys(found) if not (word == "null" and option.optional)]
    found = [word for word in found if not any(accepts(kind, word) for kind in option.kinds)]
    return found + beyond(option)


def beyond(option: Option) -> list[str]:
    """Values outside the range that an option's docstring gives, and below zero where that means nothing."""
    numbers = [kind for kind in option.kinds if kind in (int, float)]
    if not numbers:
        return []
    step, text, found = 1 if int in numbers else 0.1, option.text.replace("\n", " "), []
    if option.key.startswith("trainer.") and not option.key.startswith(GUIDANCE):
        text = ""  # Lightning's words
    if least := re.search(r">= (-?\d+)", text):
        found += [int(least[1]) - 1]
    if above := re.search(r"> (-?\d+)", text):
        found += [int(above[1]), int(above[1]) - 1]
    for left, low, high, right in re.findall(r"in ([\[(])(-?\d+), (-?\d+)([\])])", text):
        found += [int(low) - step, int(high) + step]
        found += [int(low)] * (left == "(") + [int(high)] * (right == ")")
    if (ends := re.search(r"in (-?\d+) \.\.\. (\d+)", text)) is not None:
        found += [int(ends[1]) - 1, int(ends[2]) + 1]
    if not SIGNED.search(option.key):
        found += [-1, -step]
    if SIZES.search(text):
        found += [int(HUGE)] if "0 for none" in text else [0, int(HUGE)]
    return list(dict.fromkeys(map(str, found)))


def nested(key: str, value: str) -> str | None:
    """A configuration with one option, None where a file cannot change it alone."""
    parts = key.split(".")
    if key.startswith(GUIDANCE):
        return None
    if parts[0] in ("model", "data"):
        parts.insert(1, "init_args")
    if "\0" in value or value in ("", "${"):
        value = yaml.safe_dump(value).splitlines()[0]
    if value.startswith("${"):
        value = f'"{value}"'
    return "".join(f"{part}: {{" for part in parts[:-1]) + f"{parts[-1]}: {value}" + "}" * (len(parts) - 1) + "\n"


def fit_cases(stage: str, roots: dict[str, type], each: int, draws: random.Random) -> Iterator[Case]:
    """Cases of `vsd fit` of a stage; each: how many values per option are drawn, beside those out of range."""
    line = ["fit", *LINES[stage]]
    for key, kind in roots.items():
        for option in options_of(kind, key):
            if option.key.rpartition(".")[2] in FREE and option.key.startswith("trainer."):
                continue
            ranges = beyond(option)
            typed = [word for word in words(option) if word not in ranges]
            for word in [*draws.sample(typed, min(each, len(typed))), *ranges]:
                text = nested(option.key, word) if draws.random() < 0.5 else None
                given = [f"--{option.key}={word}"] if text is None else ["--config", "broken.yaml"]
                alias = text is not None and word in ("*a", ALIAS)  # the reader of the file names its line
                named = "prompt: " if option.key == f"{GUIDANCE}.prompt" else option.key  # which is also ${prompt}
                yield Case("vsd", [*line, *given], named + "|line 1" * alias, text)
            if int in option.kinds or float in option.kinds:
                reference = draws.choice(["${nowhere}", "${nowhere.at.all}", "${" + option.key + "}"])
                yield Case("vsd", [*line, f"--{option.key}={reference}"], option.key)
            yield Case("vsd", [*line, f"--{option.key}_s=1"], f"{option.key}_s")
            twice = nested(option.key, f"1, {option.key.rpartition('.')[2]}: 2")
            if twice is not None and draws.random() < 0.2:
                yield Case("vsd", [*line, "--config", "broken.yaml"], f"'{option.key.rpartition('.')[2]}'", twice)
    if stage == "nerf":
        yield from read_cases(each, draws)
    for given, named in CONFLICTS[stage]:
        yield Case("vsd", [*line, *given], named)


def read_cases(each: int, draws: random.Random) -> Iterator[Case]:
    """Cases of the subcommands that read a checkpoint."""
    found = [*options_of(NerfStage, "model"), *options_of(RandomCameras, "data")]
    for name in ("validate", "test", "predict"):
        for option in draws.sample(found, 4 * each):
            for word in words(option)[-2:]:
                line = [name, *LINES["nerf"], f"--{option.key}={word}", "--ckpt_path=RUN/checkpoints/last.ckpt"]
                yield Case("vsd", line, option.key)


def milestone_cases(each: int, draws: random.Random) -> Iterator[Case]:
    """Cases of the list of milestones."""
    for name in MILESTONE:
        typed = [word for word in WORDS[int] if word not in ("*a", ALIAS, LONG)]
        for word in [*draws.sample(typed, each), "-1", *(["0", HUGE] if name != "step" else [])]:
            parts = ", ".join(f"{key}: {word if key == name else value}" for key, value in MILESTONE.items())
            yield Case("vsd", ["fit", *LINES["nerf"], f"--data.milestones=[{{{parts}}}]"], "data.milestones")


def stage_cases(each: int = 3, seed: int = 0) -> list[Case]:
    """Cases of all stages; what they have in common is tried with the NeRF stage.

    Args:
        each: How many values that are none of its type an option gets.
        seed: Of their choice.
    """
    draws = random.Random(seed)
    common = {"data": RandomCameras, GUIDANCE: VSDGuidance, "trainer": pl.Trainer, "checkpoint": LastCheckpoint}
    found = [*milestone_cases(each, draws)]
    for stage, kind in STAGES.items():
        found += fit_cases(stage, {"model": kind} | (common if stage == "nerf" else {}), each, draws)
    return found


class Captured(Exception):
    """Carries the parser of a command."""


COMMANDS: dict[str, tuple[str, list[str]]] = {  # module, and arguments that it would take; RUN is a run
    "dream": ("lightning_modules.dream", ["a red car"]),
    "vsd export": ("lightning_modules.export", ["RUN"]),
    "vsd gallery": ("gallery.command", ["RUN"]),
    "vsd runs": ("gallery.table", ["RUN"]),
    "toybox": ("toybox.__main__", ["a red car"]),
    "half": ("toybox.prior.half", ["nowhere", "copy"]),
    "gates": ("toybox.prior.gates", ["--quick"]),
    "parts_training": ("toybox.judges.parts_training", ["car"]),
    "prior_parts": ("evaluation.prior_parts", ["car"]),
    "score": ("evaluation.score", ["RUN"]),
    "claims": ("evaluation.claims", ["--quick"]),
    "presets": ("evaluation.presets", []),
    "truth_score": ("evaluation.truth_score", ["--prompt", "a red car", "--config", NERF]),
    "faults": ("evaluation.faults", []),
    "view_glb": ("evaluation.view_glb", ["view.glb", "--three", "three", "--browser", "true"]),
}
PLACES = ["", "a\0b", LONG, "file/inside", "/proc/nowhere/inside", "/dev/null/inside"]
PROMPTS = ["", " ", DUCK, LONG, "../../a red car", "${nowhere}", "a red", "a red car a blue duck", "-"]
TEXTS: dict[str, list[str]] = {  # by the destination of an argument of text
    "prompt": PROMPTS,
    "prompts": PROMPTS,
    "kinds": ["", "finest", DUCK, LONG],
    "preset": ["", "finest", DUCK, "../toybox", LONG],
    "config": ["", "nowhere.yaml", "file", "binary", LONG, "a\0b"],
    "prior": ["nowhere/at/all", "file", "a\0b", LONG],
    "clip": ["nowhere/at/all", "file", "a\0b", LONG],
    "folder": ["", "file", "nowhere", "a\0b", LONG, "/dev/null"],
    "objects": ["", "finest", DUCK, LONG],
    "browser": ["", "nowhere/at/all", "a\0b"],
    "write": ["", "nowhere", "a\0b", LONG, "file/inside", "."],
    "three": ["", "nowhere", "file", "a\0b", LONG],
    "mesh": ["", "nowhere.glb", "a\0b", LONG, ".", "/dev/null"],
    "resume": ["", "nowhere", "file", "a\0b", LONG, "."],
    "out": PLACES,
    "export": PLACES,
    "run": ["", "nowhere", "file", "a\0b", LONG, "."],
    "runs": ["", "nowhere", "file", "a\0b", LONG],
    "folders": ["", "nowhere", "file", "a\0b", LONG],
    "files": ["", "nowhere.glb", "a\0b", LONG],
}
NUMBERS = {
    int: ["1.5", "many", "nan", "", DUCK, "[1]", "-1", "-" + BEYOND, BEYOND, "0x10", "1e3"],
    float: ["often", "nan", "inf", "-inf", "", DUCK, "[1]", "-1", "1e999"],
}
ZERO = {"particles", "seeds", "rows", "minutes", "size", "faces", "texture", "resolution"}  # that cannot be none


def parser_of(module: str) -> argparse.ArgumentParser:
    """The parser of a command that uses argparse."""

    def capture(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise Captured(parser)

    kept, argparse.ArgumentParser.parse_known_args = argparse.ArgumentParser.parse_known_args, capture
    try:
        importlib.import_module(module).main([])
    except Captured as found:
        return found.args[0]
    finally:
        argparse.ArgumentParser.parse_known_args = kept
    raise AssertionError(f"{module} parses nothing")


def command_cases() -> list[Case]:
    """Cases of the commands that are no stages, from the arguments of their parsers."""
    found = []
    for program, (module, line) in COMMANDS.items():
        for action in parser_of(module)._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            named = max(action.option_strings, key=len, default="")
            for word in argument_words(action):
                if program == "dream" and action.dest == "prompt" and word.strip() and "${" not in word:
                    continue  # which the prior's vocabulary decides, in the first stage
                given = [*line, f"{named}={word}"] if named else [word, *line[1:]]
                if not named and action.dest == "out":
                    given = [line[0], word]
                if action.dest == "config":
                    given += ["--minutes=1"]
                others = ["prompt"] if action.dest == "prompt" else []
                positional = [action.dest.rstrip("s"), str(action.metavar), *([word] if word.strip(".") else [])]
                found.append(Case(program, given, "|".join([named, *others] if named else positional)))
            if named:
                if program not in ("presets", "truth_score"):  # which give what they do not know to `vsd fit`
                    found.append(Case(program, [*line, f"{named}-s=1"], f"{named}-s"))
                if action.nargs != 0:
                    found.append(Case(program, [*line, named], named))  # and no value
    return found


def argument_words(action: argparse.Action) -> list[str]:
    """Values that are none of an argument."""
    if action.nargs == 0:
        return ["1"]  # a switch takes none
    if action.choices is not None:
        return ["finest", "", DUCK, "7"]
    if action.type in NUMBERS or (action.dest in ZERO | {"seed", "first_seed", "views", "scale"}):
        number: Callable = float if action.type is float or action.dest in ("minutes", "scale") else int
        return NUMBERS[number] + ["0"] * (action.dest in ZERO)
    return TEXTS[action.dest]


def sample(cases: list[Case], count: int, seed: int = 0) -> list[Case]:
    """Some cases, drawn evenly from all programs.

    Args:
        cases: To choose from.
        count: How many.
        seed: Of the choice.
    """
    return random.Random(seed).sample(cases, count)
