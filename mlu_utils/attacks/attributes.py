"""Attribute inference on networks: whom the attacker of a label learns from, whom he attacks, and how much he reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mlu_utils.data.table import ImageTable
from mlu_utils.scoring.attribute_inference import attack_table, split_by_identity

UNSEEN_SPLITS = ("validation", "test")


@dataclass(frozen=True)
class LabelAttack:
    """An attacker who knows a label of some people and wants it of others, on images that no model was trained on."""

    labels: np.ndarray  # (N,) of all images: 1, 0 or nan
    identity: np.ndarray  # int (N,), the person on each
    fit_rows: np.ndarray  # int (n,), all that there is of the people who are not attacked
    eval_rows: np.ndarray  # int (m,), unseen images of half of the people who have any

    @classmethod
    def on(cls, table: ImageTable, label: str, *, seed: int) -> LabelAttack:
        """Choose at random whom to attack; people with the label and people without are divided separately."""
        labels, who = table.labels[:, table.label_index(label)].numpy(), table.identity.numpy()
        unseen = np.concatenate([table.rows(split).numpy() for split in UNSEEN_SPLITS])
        eval_rows = unseen[split_by_identity(who[unseen], labels=labels[unseen], seed=seed)[1]]
        return cls(labels, who, np.flatnonzero(~np.isin(who, who[eval_rows])), eval_rows)

    def run(self, inputs: Mapping[str, Mapping[str, ArrayLike]], **options: object) -> pd.DataFrame:
        """Return `attribute_inference.attack_table`; inputs: model -> name -> (N, d), what is seen of all images."""
        rows = self.fit_rows, self.eval_rows
        cut = {
            model: {name: tuple(np.asarray(x)[own] for own in rows) for name, x in own_inputs.items()}
            for model, own_inputs in inputs.items()
        }
        (fit_labels, fit_people), (labels, people) = ((self.labels[own], self.identity[own]) for own in rows)
        return attack_table(cut, fit_labels, labels, identity_fit=fit_people, identity_eval=people, **options)
