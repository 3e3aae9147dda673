"""SLURM's commands as programs that answer what a real SLURM 22.05 was seen to answer."""

import json
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMANDS = ("sbatch", "squeue", "sinfo", "scontrol", "scancel")
_PROGRAM = f"""#!{sys.executable} -ESs
import json, os, sys
folder = os.path.dirname(os.path.abspath(__file__))
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(folder + "/calls.jsonl", "a") as calls:
    print(json.dumps([name, words, dict(os.environ)]), file=calls)
with open(folder + "/answers.json") as answers:
    for command, part, out, err, code in json.load(answers):
        if command == name and part in " ".join(words):
            sys.stdout.write(out), sys.stderr.write(err)
            sys.exit(code)
sys.exit(f"{{name}}: no answer for {{words}}")
"""
SEPARATOR = "\x1f"

SINFO = """main*|up|2-00:00:00|1|16|64000|(null)|mixed
main*|up|2-00:00:00|3|16|64000|(null)|idle
small|up|30:00|1|16|64000|(null)|down*
small|up|30:00|1|16|64000|(null)|idle
gpu|up|infinite|8|96|2000000+|gpu:h100:8(S:0-1)|allocated
"""
SHOW_PARTITION = (
    "PartitionName=main AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES "
    "QoS=N/A DefaultTime=01:00:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO "
    "MaxNodes=UNLIMITED MaxTime=2-00:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED "
    "Nodes=n[1-4] PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO "
    "OverTimeLimit=NONE PreemptMode=REQUEUE State=UP TotalCPUs=64 TotalNodes=4 "
    "SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED "
    "MaxMemPerNode=UNLIMITED TRES=cpu=64,mem=250G,node=4,billing=64\n"
)
CONTROLLER_DOWN = "Unable to contact slurm controller (connect failure)\n"
JOB_UNKNOWN = "slurm_load_jobs error: Invalid job id specified\n"


@dataclass(slots=True)
class FakeSlurm:
    """A folder of commands to put first into PATH."""

    folder: Path
    answers: list[tuple[str, str, str, str, int]] = field(default_factory=list)

    def install(self) -> None:
        """Writes the commands, with the answers of a small idle cluster."""
        self.folder.mkdir()
        for command in COMMANDS:
            program = self.folder / command
            program.write_text(_PROGRAM)
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.answer("sinfo", "--Node", "n1 \nn2 \nn3 \nn4 \n")
        self.answer("sinfo", "", SINFO)
        self.answer("squeue", "", "")
        self.answer("scontrol", "show partition", SHOW_PARTITION)
        self.answer("scontrol", "show config", "JobRequeue              = 1\n")
        self.answer("sbatch", "--parsable", "1234\n")
        self.answer(
            *("sbatch", "--test-only", ""),
            "sbatch: Job 10 to start at 2026-01-01T12:00:00 using 4 processors on nodes n[1-2] "
            "in partition main\n",
        )
        self.answer("scancel", "", "")

    def answer(self, command: str, part: str, out: str, err: str = "", code: int = 0) -> None:
        """Sets the answer to a command whose words contain ``part``; later ones come first."""
        same = [each for each in self.answers if each[:2] == (command, part)]
        for each in same:
            self.answers.remove(each)
        is_general = part == ""
        place = len(self.answers) if is_general else 0
        self.answers.insert(place, (command, part, out, err, code))
        (self.folder / "answers.json").write_text(json.dumps(self.answers))

    def calls(self, command: str) -> list[tuple[list[str], dict[str, str]]]:
        """The words and the environment of each call of a command."""
        file = self.folder / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        calls: list[list[Any]] = [json.loads(line) for line in lines]
        return [(words, environment) for name, words, environment in calls if name == command]

    def path(self) -> str:
        """PATH with the commands first."""
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"


def queue_line(job: str, state: str, *, script: str = "", reason: str = "None") -> str:
    """A line of squeue, in the format that the client asks for."""
    fields = (
        *(job, state, reason, "it's | mine", "me", "main", "2", "n[1-2]", "1:02"),
        *("20:00", "18:58", "2026-01-01T12:00:00", "2026-01-01T11:00:00", script),
    )
    return SEPARATOR.join(fields) + "\n"
