"""Studies: a data set, a network, a request, a seed and what is compared on them; profiles are files of studies.

`Study.load` is the only reader of `workflow/profiles/*.yaml`. Nothing here trains, and torch is imported by the
properties that need it only: the workflow reads profiles to find out that there is nothing to do.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mlu_utils import paths
from mlu_utils.digests import digest
from mlu_utils.naming import choices

if TYPE_CHECKING:
    import torch

    from mlu_utils.data.table import ImageTable
    from mlu_utils.devices import Precision
    from mlu_utils.requests import ForgetRequest

PROFILE_KEYS = ("profile", "publish_study", "step_studies", "defaults", "notebooks", "studies")
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
SCALARS = {"bool": bool, "int": int, "float": float, "str": str, "dict": dict}


@dataclass(frozen=True)
class Recipe:
    """How the original and the retrained model are trained; the defaults are the paper's.

    Args:
        num_epochs: passes over the training images, at least 1.
        batch_size: images a step, at least 1.
        learning_rate, momentum, weight_decay: of SGD, finite and at least 0.
        schedule: "constant" or "linear", see `training.fit`.
        is_augmented: flip, affine and colour jitter of each training image.

    Raises:
        ValueError: a number out of its range.
    """

    num_epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"
    is_augmented: bool = True

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "learning_rate", "momentum", "weight_decay"):
            least = 1 if name in ("num_epochs", "batch_size") else 0
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and at least {least}, got {getattr(self, name)}")

    def fit_options(self) -> dict:
        """Return the keyword arguments for `training.fit` and the method Retrain."""
        from mlu_utils.data.batches import Augmentation

        options = asdict(self)
        options["augmentation"] = Augmentation() if options.pop("is_augmented") else None
        return options


@dataclass(frozen=True)
class Study:
    """A data set, a network, a request and a seed, with the plan of what is compared on them.

    Args:
        profile, name: results lie in `runs/<profile>/<name>/`.
        dataset: a name in `data.DATASETS`, or a folder of images with a labels.csv.
        image_size: height in pixels; None: the data set's own.
        num_images: how many to draw, of data sets that are drawn; None: the data set's own number.
        dataset_options: further arguments of the data set's loader.
        architecture: a name in `models.MODELS`.
        request: for example `label:Eyeglasses`, see `requests.ForgetRequest.parse`.
        seed: of training.
        device, precision: auto, or a name that `devices` knows.
        recipe: how the reference models are trained.
        methods: whom to compare; empty: every method that takes the request.
        one_seed_methods: too dear here for more than the first of the unlearning seeds.
        kept_methods: whose model of the first seed stays on disk, for later notebooks.
        unlearning_seeds: one run of each method for each; at least one.
        retrain_seeds: further trainings from scratch, which show Retrain's own spread.
        max_epochs: methods that train make at most so many passes; None: as tuned.

    Raises:
        ValueError: no unlearning seed, or max_epochs below 1.
    """

    profile: str
    name: str
    dataset: str = "orl"
    image_size: int | None = None
    num_images: int | None = None
    dataset_options: dict = field(default_factory=dict)
    architecture: str = "resnet18"
    request: str = "label:Eyeglasses"
    seed: int = 42
    device: str = "auto"
    precision: str = "auto"
    recipe: Recipe = Recipe()
    methods: tuple[str, ...] = ()
    one_seed_methods: tuple[str, ...] = ()
    kept_methods: tuple[str, ...] = ()
    unlearning_seeds: tuple[int, ...] = (7, 8, 9)
    retrain_seeds: tuple[int, ...] = ()
    max_epochs: int | None = None

    def __post_init__(self) -> None:
        if not self.unlearning_seeds:
            raise ValueError("unlearning_seeds is empty, expected at least one seed")
        if self.max_epochs is not None and self.max_epochs < 1:
            raise ValueError(f"max_epochs must be at least 1, or null for as tuned, got {self.max_epochs}")

    @classmethod
    def load(cls, profile: str, study: str, /, **change: Any) -> Study:
        """Read a study of a profile, with some of its values changed.

        Weakest first: the defaults of `Study` and `Recipe`, the profile's, the study's own values, `change`. A
        changed study has a folder of its own, so that it overwrites no finished run.

        Args:
            profile, study: names.
            change: any field of `Study` or `Recipe`.

        Raises:
            ValueError: an unknown name, a value of the wrong type or out of range; the message says where it stands.
        """
        return Profile.load(profile).study(study, **change)

    @cached_property
    def table(self) -> ImageTable:
        """The data."""
        from mlu_utils import data

        sizes = {"size": self.image_size, "num_images": self.num_images}
        given = {name: value for name, value in sizes.items() if value is not None}
        return data.load(self.dataset, **given, **self.dataset_options)

    @cached_property
    def forget_request(self) -> ForgetRequest:
        """The parsed request."""
        from mlu_utils.requests import ForgetRequest

        return ForgetRequest.parse(self.request)

    @cached_property
    def mask(self) -> torch.Tensor:
        """Entries to forget, bool (N, K)."""
        return self.forget_request.mask(self.table)

    @cached_property
    def torch_device(self) -> torch.device:
        """The device to run on."""
        from mlu_utils.devices import resolve_device

        return resolve_device(self.device)

    @cached_property
    def number_format(self) -> Precision:
        """The number format of forward and backward passes; `auto` is fp32 for the small network.

        Threads that multiply so small matrices in bf16 wait for each other longer than they work.
        """
        from mlu_utils.devices import FP32, resolve_precision

        is_small = self.architecture == "small_cnn" and self.precision == "auto"
        return FP32 if is_small else resolve_precision(self.precision, self.torch_device)

    @property
    def folder(self) -> Path:
        """Where this study's results lie."""
        return paths.RUNS / self.profile / self.name

    @property
    def forgotten_names(self) -> tuple[str, ...]:
        """Names of the labels or classes that the request touches: the ones that are not simply retained."""
        if self.forget_request.kind in ("label", "class", "partial"):
            table, name = self.table, self.forget_request.name
            if table.is_multi_label:
                return (table.label_names[table.label_index(name)],)
            return (table.class_names[table.class_index(name)],)
        return ()

    def facts(self, plan: bool = True) -> dict[str, Any]:
        """Return name -> value as JSON has it, the recipe's values among the others: what `load` would take back.

        Args:
            plan: whether the plan of what is compared is among them.
        """
        recipe = asdict(self.recipe)
        own = {name: getattr(self, name) for name in _TYPES if name not in recipe and (plan or name not in PLAN)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in (own | recipe).items()}

    def check(self) -> None:
        """Refuse names that nothing answers to, at the price of an import of torch.

        Raises:
            ValueError: the first such name, what is accepted and the nearest.
        """
        # Imported by name: no result depends on this check, so that no fingerprint shall.
        of = {
            room: importlib.import_module(f"mlu_utils.{room}") for room in ("data", "models", "training", "unlearning")
        }
        named = {
            "data set": ([] if Path(self.dataset).is_dir() else [self.dataset], of["data"].DATASETS),
            "architecture": ([self.architecture], of["models"].MODELS),
            "schedule": ([self.recipe.schedule], of["training"].SCHEDULES),
            "method": ((*self.methods, *self.one_seed_methods, *self.kept_methods), of["unlearning"].METHODS),
        }
        for what, (names, known) in named.items():
            for name in names:
                if name not in known:
                    raise ValueError(f"unknown {what} {name!r}: {choices(name, known)}")
        _ = self.forget_request, self.number_format


PLAN = ("methods", "one_seed_methods", "kept_methods", "unlearning_seeds", "retrain_seeds", "max_epochs")
# Every value that a profile may give a study, with its type.
_TYPES = {
    each.name: each.type
    for owner in (Study, Recipe)
    for each in fields(owner)
    if each.name not in ("profile", "name", "recipe")
}


@dataclass(frozen=True)
class Profile:
    """The studies of one kind of run, and what its notebooks run with; one file `workflow/profiles/<name>.yaml`.

    Args:
        name: of the profile and of its file.
        studies: their names, in the order in which they start.
        publish_study: the study whose outputs the committed notebooks show.
        step_studies: studies for which the notebooks that go step by step run.
        content: what the file says.
    """

    name: str
    studies: tuple[str, ...]
    publish_study: str
    step_studies: tuple[str, ...]
    content: Mapping[str, Any]

    @classmethod
    def load(cls, name: str) -> Profile:
        """Read a profile and check every value of every study in it.

        Raises:
            ValueError: no such profile, or a mistake in its file: the message names file and key.
        """
        if name not in profile_names():
            raise ValueError(f"unknown profile {name!r}: {choices(name, profile_names())}")
        file = f"{name}.yaml"
        try:
            content = yaml.load((paths.PROFILES / file).read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
        except yaml.YAMLError as error:
            raise ValueError(f"{file} is not valid YAML: {error}") from error
        content = dict(_mapping(content, file))
        for key in content:
            if key not in PROFILE_KEYS:
                raise ValueError(f"{file}: unknown key {key!r}: {choices(key, PROFILE_KEYS)}")
        if content.get("profile") != name:
            raise ValueError(f"{file}: profile is {content.get('profile')!r}, expected the file's name {name!r}")
        content["defaults"] = _mapping(content.get("defaults"), f"{file}: defaults")
        for key in ("studies", "notebooks"):
            content[key] = _nested(content.get(key), f"{file}: {key}")
        studies = content["studies"]
        if not studies:
            raise ValueError(f"{file}: studies is empty, expected at least one study")
        for study, values in studies.items():
            # The name becomes a folder and a wildcard of the workflow.
            if not study or not set(study) <= NAME_CHARACTERS or study.startswith("."):
                raise ValueError(f"{file}: studies.{study}: use letters, digits, '-', '_' and '.' only")
            values["notebooks"] = _nested(values.get("notebooks"), f"{file}: studies.{study}.notebooks")
        publish_study = content.get("publish_study", next(iter(studies)))
        step_studies = content.get("step_studies", [publish_study])
        if not isinstance(step_studies, list) or publish_study not in step_studies:
            raise ValueError(f"{file}: step_studies {step_studies!r}: expected a list with {publish_study!r} in it")
        for key, study in (("publish_study", publish_study), *(("step_studies", each) for each in step_studies)):
            if study not in studies:
                raise ValueError(f"{file}: {key} {study!r}: {choices(study, studies)}")
        profile = cls(name, tuple(studies), publish_study, tuple(step_studies), content)
        for study in studies:
            profile.study(study)
        return profile

    def study(self, name: str, /, **change: Any) -> Study:
        """Return one study, see `Study.load`."""
        if name not in self.studies:
            raise ValueError(f"unknown study {name!r} in profile {self.name!r}: {choices(name, self.studies)}")
        own = {key: value for key, value in self.content["studies"][name].items() if key != "notebooks"}
        values: dict[str, Any] = {}
        for where, layer in (
            (f"{self.name}.yaml: defaults", self.content["defaults"]),
            (f"{self.name}.yaml: studies.{name}", own),
            ("change", change),
        ):
            for key, value in layer.items():
                if key not in _TYPES:
                    raise ValueError(f"{where}.{key}: no value of a study has this name: {choices(key, _TYPES)}")
                values[key] = checked_value(value, _TYPES[key], f"{where}.{key}")
        folder = f"{name}+{digest({key: values[key] for key in change})[:8]}" if change else name
        recipe = {each.name: values.pop(each.name) for each in fields(Recipe) if each.name in values}
        try:
            return Study(self.name, folder, recipe=Recipe(**recipe), **values)
        except ValueError as error:
            raise ValueError(f"{self.name}.yaml: studies.{name}: {error}") from error

    @property
    def notebooks(self) -> tuple[str, ...]:
        """Names of the notebooks that the profile, or a study in it, gives values of their own."""
        sections = [self.content["notebooks"], *(values["notebooks"] for values in self.content["studies"].values())]
        return tuple(sorted(set().union(*sections)))

    def knobs(self, notebook: str, study: str | None = None) -> dict[str, Any]:
        """Return a notebook's own parameters as the file gives them; those under the study override the others."""
        of_study = self.content["studies"][study]["notebooks"] if study else {}
        return {**self.content["notebooks"].get(notebook, {}), **of_study.get(notebook, {})}


def profile_names() -> tuple[str, ...]:
    """Return the names of the profiles that exist."""
    return tuple(sorted(path.stem for path in paths.PROFILES.glob("*.yaml")))


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _mapping(value, where: str) -> dict:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected 'name: value' lines, got {value!r}")
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"{where}: the name {key!r} is not text; put it in quotes")
    return value


def _nested(value, where: str) -> dict:
    return {key: _mapping(inner, f"{where}.{key}") for key, inner in _mapping(value, where).items()}


def checked_value(value: Any, annotation: str, where: str) -> Any:
    """Return a value from YAML or from a literal as the annotated type, or refuse it.

    Args:
        value: to check.
        annotation: bool, int, float, str, dict, list[one of them], tuple[one of them, ...], each optionally `| None`.
        where: named in the error message.

    Returns:
        The value. A whole number given for a float becomes a float, a list given for a tuple a tuple; nothing else is
        converted.

    Raises:
        ValueError: another type, or an infinite or undefined number.
    """
    return _checked(value, ast.parse(annotation, mode="eval").body, annotation, where)


def _checked(value, node: ast.expr, annotation: str, where: str):
    match node:
        case ast.BinOp(left=inner, op=ast.BitOr(), right=ast.Constant(value=None)):
            return None if value is None else _checked(value, inner, annotation, where)
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            kinds = list
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[inner, rest])) if (
            ast.unparse(rest) == "..."
        ):
            kinds = (list, tuple)
        case ast.Name(id=name) if name in SCALARS:
            return _checked_scalar(value, SCALARS[name], annotation, where)
        case _:
            names = f"{', '.join(SCALARS)}, list[one], tuple[one, ...], or '... | None'"
            raise ValueError(f"{where}: unknown type {annotation!r}; use {names}")
    if not isinstance(value, kinds):
        raise ValueError(f"{where}: expected {annotation}, got {value!r}; write [a, b]")
    items = [_checked(item, inner, annotation, f"{where}[{i}]") for i, item in enumerate(value)]
    return items if kinds is list else tuple(items)


def _checked_scalar(value, kind: type, annotation: str, where: str):
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{where}: expected {annotation}, got {type(value).__name__} {value!r}{_advice(value, kind)}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{where}: expected a finite number, got {value!r}")
    return value


def _advice(value, kind: type) -> str:
    if kind is bool and isinstance(value, str | int):
        return "; write true or false without quotes"
    if kind is str:
        return "; put it in quotes"
    if kind is int and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if kind in (int, float) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            if not math.isfinite(kind(value)):
                return ""
            # YAML 1.1 takes 1e-3 for text: it wants a point in the mantissa.
            text = re.sub(r"^(-?\d+)e", r"\1.0e", repr(kind(value)))
            why = " (YAML reads an exponent without a decimal point as text)" if kind is float else ""
            return f"; write {text}{why}"
    return ""
