"""Scores: NumPy arrays in, numbers out. No model, no table, no file and no picture is known here.

`utility`: how well labels are predicted. `attribute_inference`: what outputs or features tell about a forgotten label
(by `probe`). `membership`, `nomus`: whether an image was learned from. `entropy`: whether outputs give forgotten data
away. `distances`: how close two models are. `learning_curves`: how fast a label comes back. `forgetting_quality`: the
challenge's epsilon. `correlation`: what correlated labels lose. `audit`: a verdict.
"""
