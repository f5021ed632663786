"""Run one unlearning experiment: `python run_experiment.py --method WP --dataset orl --label Eyeglasses`."""

import sys

from mlu_utils.cli import main

if __name__ == "__main__":
    sys.exit(main(["experiment", *sys.argv[1:]]))
