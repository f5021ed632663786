"""Who is attacked and who is not, and that the attack is the scorer's own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_table

from mlu_utils.attacks.attributes import LabelAttack
from mlu_utils.scoring.attribute_inference import attack_table


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nobody_who_is_attacked_was_learned_from_and_no_model_saw_the_images(seed):
    table = dataclasses.replace(tiny_table(num_images=240), identity=torch.arange(240) // 6)
    attack = LabelAttack.on(table, "label1", seed=seed)
    fit, attacked = set(attack.identity[attack.fit_rows]), set(attack.identity[attack.eval_rows])
    assert fit and attacked and not fit & attacked
    assert fit | attacked == set(table.identity.tolist())
    assert (table.split[attack.eval_rows] != 0).all() and (table.split[attack.fit_rows] == 0).any()
    np.testing.assert_array_equal(attack.labels, table.labels[:, 1])


def test_the_attack_is_the_scorers_on_these_rows():
    table = tiny_table(num_images=160)
    attack = LabelAttack.on(table, "label1", seed=0)
    inputs = {
        name: {"pixels": (table.images.flatten(1).float() * sign).numpy()} for name, sign in (("WP", 1), ("Retrain", 0))
    }
    options = {"attackers": ("linear",), "seed": 3, "num_resamples": 20}
    fit, test = attack.fit_rows, attack.eval_rows
    cut = {name: {"pixels": (own["pixels"][fit], own["pixels"][test])} for name, own in inputs.items()}
    people = {"identity_fit": table.identity[fit].numpy(), "identity_eval": table.identity[test].numpy()}
    expected = attack_table(cut, attack.labels[fit], attack.labels[test], **people, **options)
    pd.testing.assert_frame_equal(attack.run(inputs, **options), expected)
    assert expected.auc[0] > 0.9 and expected.auc[1] == 0.5
