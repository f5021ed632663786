# One rule per numbered notebook, one job per study. Which notebook needs which: RULES in mlu_utils/notebook_runs.py.
#   snakemake --cores 2 --config profile=quick --rerun-triggers params        (make reproduce does this)
# On a cluster: the same with --executor slurm, and --config threads=N for the cores of one job.
import sys

sys.path.insert(0, str(workflow.basedir))

from mlu_utils import notebook_runs, paths, studies


workdir: str(paths.ROOT)


PROFILE = studies.load_profile(config.get("profile", "quick"))
notebook_runs.check_profile(PROFILE)
FINGERPRINTS = notebook_runs.fingerprints(PROFILE)


def relative(job):
    return str(job.output.relative_to(paths.ROOT))


def job_of(notebook, wildcards):
    return notebook_runs.find_job(notebook, PROFILE, getattr(wildcards, "study", None))


def inputs_of(notebook):
    return lambda wildcards: [relative(job) for job in job_of(notebook, wildcards).upstream()]


def fingerprint_of(notebook):
    return lambda wildcards: FINGERPRINTS[notebook, getattr(wildcards, "study", None)]


def study_option(wildcards):
    return f"--study {wildcards.study}" if hasattr(wildcards, "study") else ""


wildcard_constraints:
    study="[^/]+",


rule all:
    input:
        [relative(job) for job in notebook_runs.jobs(PROFILE)],


for NOTEBOOK, RULE in notebook_runs.RULES.items():
    FOLDER = f"runs/{PROFILE.name}/" + ("{study}/" if RULE.per_study else "")

    rule:
        name:
            f"notebook_{NOTEBOOK}"
        input:
            inputs_of(NOTEBOOK),
        output:
            f"{FOLDER}{NOTEBOOK}.ipynb",
        params:
            notebook=NOTEBOOK,
            profile=PROFILE.name,
            python=sys.executable,
            study=study_option,
            # The one reason to run a job again: it covers code, parameters, data and everything upstream.
            fingerprint=fingerprint_of(NOTEBOOK),
        # Jobs run one after the other with all cores each, so that none disturbs another's timing.
        threads: int(config.get("threads", workflow.cores or 1))
        shell:
            "{params.python:q} -m mlu_utils.cli run-notebook"
            " --notebook {params.notebook} --profile {params.profile} {params.study}"
