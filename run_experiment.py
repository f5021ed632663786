"""Run one unlearning experiment from the command line: `python run_experiment.py --help`."""

import sys

from mlu_utils.cli import main

if __name__ == "__main__":
    sys.exit(main(["experiment", *sys.argv[1:]]))
