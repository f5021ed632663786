# One rule per job: a numbered notebook for one study, or for all of them. Which notebook needs which: RULES in
# mlu_utils/notebook_runs.py.
#   snakemake --cores 2 --config profile=quick --rerun-triggers params        (make reproduce does this)
# On a cluster: the same with --executor slurm, and --config threads=N for the cores of one job.
import shlex
import shutil
import sys

sys.path.insert(0, str(workflow.basedir))

from mlu_utils import notebook_runs, paths, studies


workdir: str(paths.ROOT)


PROFILE = studies.load_profile(config.get("profile", "quick"))
notebook_runs.check_profile(PROFILE)
JOBS = notebook_runs.jobs(PROFILE)
FINGERPRINTS = notebook_runs.fingerprints(PROFILE)
PRIORITIES = notebook_runs.priorities(PROFILE)
# No parameter: a checkout that moves to another folder stays up to date.
PYTHON = shlex.quote(sys.executable).replace("{", "{{").replace("}", "}}")
HAS_GPU = shutil.which("nvidia-smi") is not None


def relative(job):
    return str(job.output.relative_to(paths.ROOT))


rule all:
    input:
        [relative(job) for job in JOBS],


for NUMBER, JOB in enumerate(JOBS):

    rule:
        name:
            f"job_{NUMBER}_{JOB.notebook}"
        input:
            [relative(job) for job in JOB.upstream()],
        output:
            relative(JOB),
        params:
            notebook=JOB.notebook,
            profile=PROFILE.name,
            study=f"--study {JOB.study}" if JOB.study else "",
            # The one reason to run a job again: it covers code, parameters, data and everything upstream.
            fingerprint=FINGERPRINTS[JOB.notebook, JOB.study],
        priority: PRIORITIES[JOB.notebook, JOB.study]
        # One core a job: two jobs side by side on two cores take as long each as one alone, and less than two in turn
        # with both cores, because much of a job (imports, probes, figures) cannot use a second one. The numbers then
        # depend on no machine's number of cores. A GPU is not shared: there, jobs run one after the other.
        threads: int(config.get("threads", (workflow.cores or 1) if HAS_GPU else 1))
        shell:
            f"{PYTHON} -m mlu_utils.cli run-notebook"
            " --notebook {params.notebook} --profile {params.profile} {params.study}"
