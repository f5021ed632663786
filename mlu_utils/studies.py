"""Profiles: which studies run, and every hyperparameter they run with.

A study is dataset x model x request x seed. A profile is one YAML file in `profiles/`; this module reads it
and checks its form. Whether a name is a parameter of a notebook is checked by `notebook_runs`.

Nothing here may import torch: the engine reads profiles to find out that there is nothing to do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mlu_utils import paths
from mlu_utils.naming import choices

PROFILE_KEYS = ("profile", "publish_study", "step_studies", "defaults", "notebooks", "studies")
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@dataclass(frozen=True)
class Profile:
    """Studies and hyperparameters of one kind of run.

    Precedence, weakest first: the notebook's own default, `defaults`, `notebooks[name]`, the values of the
    study, `notebooks[name]` inside the study.
    """

    name: str
    studies: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    notebooks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    publish_study: str = ""  # the study whose outputs the committed notebooks show
    step_studies: tuple[str, ...] = ()  # studies for which the notebooks that go step by step run
    path: Path = Path()

    def overrides(self, notebook: str, study: str | None) -> dict[str, tuple[Any, str]]:
        """Return parameter name -> (value, where it was given) for one notebook of one study."""
        layers = [("defaults", self.defaults), (f"notebooks.{notebook}", self.notebooks.get(notebook, {}))]
        if study is not None:
            values = dict(self.study(study))
            own = values.pop("notebooks", {})
            layers.append((f"studies.{study}", values))
            layers.append((f"studies.{study}.notebooks.{notebook}", own.get(notebook, {})))
        return {
            name: (value, f"{self.path.name}: {where}.{name}")
            for where, layer in layers
            for name, value in layer.items()
        }

    def study(self, name: str) -> Mapping[str, Any]:
        """Return the values of one study.

        Raises:
            ValueError: The profile has no study of this name.
        """
        if name not in self.studies:
            raise ValueError(f"unknown study {name!r} in profile {self.name!r}: {choices(name, self.studies)}")
        return self.studies[name]


def profile_names(folder: Path | None = None) -> tuple[str, ...]:
    """Return the names of the profiles that exist."""
    return tuple(sorted(path.stem for path in (folder or paths.PROFILES).glob("*.yaml")))


def load_profile(name: str, folder: Path | None = None) -> Profile:
    """Read `profiles/<name>.yaml`.

    Args:
        name: Profile name, e.g. "quick".
        folder: Where profiles lie.

    Returns:
        The profile, its form checked.

    Raises:
        ValueError: There is no such profile, or the file is malformed: the message names file and key.
    """
    path = (folder or paths.PROFILES) / f"{name}.yaml"
    if name not in profile_names(folder):
        raise ValueError(f"unknown profile {name!r}: {choices(name, profile_names(folder))}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not valid YAML: {error}") from error
    content = _mapping(content, path.name)
    for key in content:
        if key not in PROFILE_KEYS:
            raise ValueError(f"{path.name}: unknown key {key!r}: {choices(key, PROFILE_KEYS)}")
    if content.get("profile") != name:
        raise ValueError(f"{path.name}: profile is {content.get('profile')!r}, expected the file's name {name!r}")
    studies = _nested(content.get("studies"), f"{path.name}: studies")
    if not studies:
        raise ValueError(f"{path.name}: studies is empty, expected at least one study")
    for study, values in studies.items():
        # The name becomes a folder and a wildcard of the workflow.
        if not set(study) <= NAME_CHARACTERS or study.startswith("."):
            raise ValueError(f"{path.name}: studies.{study}: use letters, digits, '-', '_' and '.' only")
        _nested(values.get("notebooks"), f"{path.name}: studies.{study}.notebooks")
    publish_study = content.get("publish_study", next(iter(studies)))
    if publish_study not in studies:
        raise ValueError(f"{path.name}: publish_study {publish_study!r}: {choices(publish_study, studies)}")
    step_studies = content.get("step_studies", [publish_study])
    if not isinstance(step_studies, list) or publish_study not in step_studies:
        raise ValueError(f"{path.name}: step_studies {step_studies!r}: expected a list with {publish_study!r} in it")
    for study in step_studies:
        if study not in studies:
            raise ValueError(f"{path.name}: step_studies {study!r}: {choices(study, studies)}")
    return Profile(
        name=name,
        studies=studies,
        defaults=_mapping(content.get("defaults"), f"{path.name}: defaults"),
        notebooks=_nested(content.get("notebooks"), f"{path.name}: notebooks"),
        publish_study=publish_study,
        step_studies=tuple(step_studies),
        path=path,
    )


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
