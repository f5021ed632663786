"""Studies: a data set, a network, a request, a seed and what is compared on them; profiles are files of studies.

Nothing here trains, and only the properties that need torch import it: the workflow reads profiles to find out that
there is nothing to do.
"""

from __future__ import annotations

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
from mlu_utils.naming import choices, require_at_least, require_choice

if TYPE_CHECKING:
    import torch

    from mlu_utils.data.table import ImageTable
    from mlu_utils.devices import Precision
    from mlu_utils.requests import ForgetRequest

PROFILE_KEYS = ("profile", "publish_study", "step_studies", "defaults", "notebooks", "studies")
SCALARS = {kind.__name__: kind for kind in (bool, int, float, str, dict)}


@dataclass(frozen=True)
class Recipe:
    """How both models are trained, see `training.fit`; the defaults are the paper's. Bad numbers are a ValueError."""

    num_epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"
    is_augmented: bool = True  # flip, affine and colour jitter of each training image

    def __post_init__(self) -> None:
        require_at_least(1, num_epochs=self.num_epochs, batch_size=self.batch_size)
        require_at_least(0, learning_rate=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)

    def fit_options(self) -> dict:
        """Return the keyword arguments for `training.fit` and the method Retrain."""
        from mlu_utils.data.batches import Augmentation

        options = asdict(self)
        options["augmentation"] = Augmentation() if options.pop("is_augmented") else None
        return options


@dataclass(frozen=True)
class Study:
    """A data set, a network, a request and a seed, with the plan of what is compared on them.

    A plan without an unlearning seed, or with max_epochs below 1, is refused with a ValueError.
    """

    profile: str  # results lie in `runs/<profile>/<name>/`
    name: str
    dataset: str = "orl"  # a name in `data.DATASETS`, or a folder of images with a labels.csv
    image_size: int | None = None  # height in pixels; None: the data set's own
    num_images: int | None = None  # of data sets that are drawn; None: the data set's own number
    dataset_options: dict = field(default_factory=dict)  # further arguments of the data set's loader
    architecture: str = "resnet18"  # a name in `models.MODELS`
    request: str = "label:Eyeglasses"  # see `requests.ForgetRequest.parse`
    seed: int = 42  # of training
    device: str = "auto"  # or a name that `devices` knows, as precision
    precision: str = "auto"
    recipe: Recipe = Recipe()
    methods: tuple[str, ...] = ()  # whom to compare; empty: every method that takes the request
    one_seed_methods: tuple[str, ...] = ()  # too dear here for more than the first of the unlearning seeds
    kept_methods: tuple[str, ...] = ()  # whose model of the first seed stays on disk, for later notebooks
    unlearning_seeds: tuple[int, ...] = (7, 8, 9)  # one run of each method for each
    retrain_seeds: tuple[int, ...] = ()  # further trainings from scratch, which show Retrain's own spread
    max_epochs: int | None = None  # methods that train make at most so many passes; None: as tuned

    def __post_init__(self) -> None:
        if not self.unlearning_seeds:
            raise ValueError("unlearning_seeds is empty, expected at least one seed")
        if self.max_epochs is not None and self.max_epochs < 1:
            raise ValueError(f"max_epochs must be at least 1, or null for as tuned, got {self.max_epochs}")

    @classmethod
    def load(cls, profile: str, study: str, /, **change: Any) -> Study:
        """Read a study of a profile; `change` is any field of `Study` or `Recipe`.

        Weakest first: the defaults of `Study` and `Recipe`, the profile's, the study's own values, `change`. A
        changed study has a folder of its own, so that it overwrites no finished run. An unknown name, or a value of the
        wrong type or out of range, is refused with a ValueError that says where it stands.
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
        """The number format of all passes; `auto` is fp32 for the small network, where threads in bf16 mostly wait."""
        from mlu_utils.devices import FP32, resolve_precision

        is_small = self.architecture == "small_cnn" and self.precision == "auto"
        return FP32 if is_small else resolve_precision(self.precision, self.torch_device)

    @property
    def folder(self) -> Path:
        """Where this study's results lie."""
        return paths.RUNS / self.profile / self.name

    @property
    def forgotten_names(self) -> tuple[str, ...]:
        """Names of the labels, or of the class, that the request is about, as the table has them."""
        index = self.table.label_index if self.table.is_multi_label else self.table.class_index
        return tuple(self.table.output_names[index(name)] for name in self.forget_request.names)

    def facts(self, plan: bool = True) -> dict[str, Any]:
        """Return name -> value as JSON has it, the recipe's and maybe the plan's among them: what `load` takes back."""
        recipe = asdict(self.recipe)
        own = {name: getattr(self, name) for name in _TYPES if name not in recipe and (plan or name not in PLAN)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in (own | recipe).items()}

    def check(self) -> None:
        """Refuse names that nothing answers to with a ValueError, at the price of an import of torch."""
        is_folder = Path(self.dataset).is_dir()
        for what, room, table, names in (
            ("data set", "data", "DATASETS", () if is_folder else (self.dataset,)),
            ("architecture", "models", "MODELS", (self.architecture,)),
            ("schedule", "training", "SCHEDULES", (self.recipe.schedule,)),
            ("method", "unlearning", "METHODS", (*self.methods, *self.one_seed_methods, *self.kept_methods)),
        ):
            # Imported by a computed name: no result depends on this check, so that no fingerprint shall.
            known = getattr(importlib.import_module(f"mlu_utils.{room}"), table)
            for name in names:
                require_choice(what, name, known)
        _ = self.forget_request, self.number_format


PLAN = ("methods", "one_seed_methods", "kept_methods", "unlearning_seeds", "retrain_seeds", "max_epochs")
# Every value that a profile may give a study, with its type.
_TYPES = {
    each.name: each.type for each in (*fields(Study), *fields(Recipe)) if each.name not in ("profile", "name", "recipe")
}


@dataclass(frozen=True)
class Profile:
    """The studies of one kind of run, and what its notebooks run with: a file `workflow/profiles/<name>.yaml`."""

    name: str
    studies: tuple[str, ...]  # their names, in the order in which they start
    publish_study: str  # whose outputs the committed notebooks show
    step_studies: tuple[str, ...]  # for which the notebooks that go step by step run
    content: Mapping[str, Any]  # of the file

    @classmethod
    def load(cls, name: str) -> Profile:
        """Read a profile and check every value of every study in it; a ValueError names file and key of a mistake."""
        require_choice("profile", name, profile_names())
        file = f"{name}.yaml"
        try:
            content = yaml.load((paths.PROFILES / file).read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
        except yaml.YAMLError as error:
            raise ValueError(f"{file} is not valid YAML: {error}") from error
        content = _mapping(content, file)
        for key in content:
            require_choice("key", key, PROFILE_KEYS, where=f"{file}: ")
        if content.get("profile") != name:
            raise ValueError(f"{file}: profile is {content.get('profile')!r}, expected the file's name {name!r}")
        for key, depth in (("defaults", 1), ("notebooks", 2), ("studies", 2)):
            content[key] = _mapping(content.get(key), f"{file}: {key}", depth)
        studies = content["studies"]
        if not studies:
            raise ValueError(f"{file}: studies is empty, expected at least one study")
        for study, values in studies.items():
            # The name becomes a folder and a wildcard of the workflow.
            if not re.fullmatch(r"[\w-][\w.-]*", study, re.ASCII):
                raise ValueError(f"{file}: studies.{study}: use letters, digits, '-', '_' and '.' only")
            values["notebooks"] = _mapping(values.get("notebooks"), f"{file}: studies.{study}.notebooks", 2)
        publish_study = content.get("publish_study", next(iter(studies)))
        require_choice("publish_study", publish_study, studies, where=f"{file}: ")
        step_studies = content.get("step_studies", [publish_study])
        if not isinstance(step_studies, list) or publish_study not in step_studies:
            raise ValueError(f"{file}: step_studies {step_studies!r}: expected a list with {publish_study!r} in it")
        for study in step_studies:
            require_choice("step_studies", study, studies, where=f"{file}: ")
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


def _mapping(value: Any, where: str, depth: int = 1) -> Any:
    """Return a section of a profile, so many levels deep of names, or refuse what is none."""
    if depth == 0:
        return value
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected 'name: value' lines, got {value!r}")
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"{where}: the name {key!r} is not text; put it in quotes")
    return {key: _mapping(inner, f"{where}.{key}", depth - 1) for key, inner in value.items()}


def checked_value(value: Any, annotation: str, where: str) -> Any:
    """Return a value from YAML or from a literal as the annotated type, or refuse it and say where it stands.

    Types are bool, int, float, str, dict, list[one] and tuple[one, ...], each optionally `| None`. A whole number given
    for a float becomes a float, a list given for a tuple a tuple; nothing else is converted. Numbers must be finite.
    """
    name = annotation.removesuffix(" | None")
    if value is None and name != annotation:
        return None
    if found := re.fullmatch(r"(?P<kind>list)\[(?P<one>.+)\]|tuple\[(?P<each>.+), \.\.\.\]", name):
        kind = list if found["kind"] else tuple
        if not isinstance(value, (list, kind)):
            raise ValueError(f"{where}: expected {annotation}, got {value!r}; write [a, b]")
        inner = found["one"] or found["each"]
        return kind(checked_value(item, inner, f"{where}[{i}]") for i, item in enumerate(value))
    if name not in SCALARS:
        known = f"{', '.join(SCALARS)}, list[one], tuple[one, ...], or '... | None'"
        raise ValueError(f"{where}: unknown type {annotation!r}; use {known}")
    kind = SCALARS[name]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{where}: expected {annotation}, got {type(value).__name__} {value!r}{_advice(value, kind)}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{where}: expected a finite number, got {value!r}")
    return value


def _advice(value, kind: type) -> str:
    advice = {bool: "; write true or false without quotes", str: "; put it in quotes"}.get(kind, "")
    if kind in (int, float) and isinstance(value, str | float):
        with contextlib.suppress(ValueError, OverflowError):
            number = kind(value)
            if number == float(value) and math.isfinite(number):
                # YAML 1.1 takes 1e-3 for text: it wants a point in the mantissa.
                text = re.sub(r"^(-?\d+)e", r"\1.0e", repr(number))
                why = " (YAML reads an exponent without a decimal point as text)" if kind is float else ""
                advice = f"; write {text}{why}"
    return advice
