# The DAG of notebooks. `rlvr reproduce` writes the plan (which notebooks have to run, after which others, with which
# command) and calls Snakemake on this file; one rule per notebook, each a papermill call.
# On a cluster: rlvr reproduce --profile gpu -- --executor slurm (everything after -- goes to Snakemake).
import json
import shlex
from pathlib import Path

PLAN = json.loads(Path(config["plan"]).read_text())
AFTER = " ".join(map(shlex.quote, [PLAN["python"], "-m", "rlvr_lib.notebook_rules"]))
PLAN_PATH = shlex.quote(str(config["plan"]))


rule everything:
    input:
        [entry["stamp"] for entry in PLAN["rules"].values()],


for NAME, ENTRY in PLAN["rules"].items():

    rule:
        name:
            f"notebook_{NAME}"
        input:
            ENTRY["after"],
        output:
            ENTRY["stamp"],
        benchmark:
            ENTRY["benchmark"]
        threads: PLAN["threads"]
        params:
            papermill=ENTRY["papermill"],
            notebook=NAME,
            after=AFTER,
            plan=PLAN_PATH,
        shell:
            "if {params.papermill}; then {params.after} finish {params.plan} {params.notebook}; "
            "else {params.after} fail {params.plan} {params.notebook}; exit 1; fi"
