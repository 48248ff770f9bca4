"""The contract of the sandbox: what it covers, what it does not, and its fixed bounds.

rollout, tasks ─ Sandbox.run_workflow | run_program ─ zygote ─ one guarded child an item
                                                    ─ WorkflowRun | ProgramRun

Workflows are hostile until proven otherwise. The pool (`pool.py`) holds the API key, the
budget and the labels, runs no model-written code, and trusts nothing a child sends.

**Covered**, by the back ends `bwrap` and `guard`:

* A child reads the interpreter's standard library, the named packages, the system's shared
  libraries, `/dev/null`, `/dev/zero` and the random devices, and no other file: no
  repository, labels, home, `/proc`, environment, or data of other items. It creates,
  writes and deletes no file, unless its task asked for a folder (`bwrap` alone), which is
  of that item, of fixed size, and gone with it. State does not pass from item to item.
* It reaches nobody: no socket but a pair within itself, no exec, no fork beyond threads,
  no signal, ptrace or limit of another process, no namespace, keyring or io_uring.
* It ends: limits of CPU, memory, open files, output and wall clock; nothing it started
  outlives it. The wall clock stops while a request of its is outstanding, and soon the
  child is stopped, too; the CPU limit never stops. A run that hit the wall clock is
  repeated once, alone, before it counts. Programs of `execute_code` have no second try:
  their limit is one of CPU (whole seconds), and of twice it in wall clock.
* Whatever it sends is data: length-limited JSON whose every field is checked. A child that
  floods, lies or dies ends its own item and is that workflow's own failure; the others
  have their turns meanwhile.
* A layer is believed only after a probe tried what it forbids.

**Not covered**, by any sandbox of this kind:

* The kernel is shared: a hole in it is a way out. Run experiments where that matters in a
  virtual machine.
* What a workflow puts into a prompt reaches the executor, and its answer reaches the
  meta-agent's feedback; side channels (timing, load) are open.
* A program graded together with its tests can read them and forge the result they would
  give: a result is a claim of the child, never a proof.
* A child can `stat` a path where user permissions allow it: existence, size, times. Under
  `guard`, what it reads of the libraries may change their access times.
* It can ask the kernel for its machine's load, process ids and scheduling.
* Memory and processes are limited for each child, not for all together: up to `MAX_CHILDREN`
  of them wait for the executor at a time. Children are the first that the kernel kills
  where memory runs out. Without root there is no user id of its own, and so no limit of
  threads, and none of the number of files in a scratch folder.

**`process`** only sets limits: see `PROCESS_DOES_NOT_STOP`.

`agent` in the child is the W4S API; `model=` is accepted and ignored, since there is one
executor. Every child starts with the same state of `random` and the same hash seed.
"""

from __future__ import annotations

MAX_CHILDREN = 640
"""Most workflow children alive at a time, waiting ones included."""
MAX_REQUESTS = 10_000
"""Most requests of one child; one more ends it."""
MAX_PROGRAMS = 200
"""Most `execute_code` calls of one workflow run; further ones are refused."""
MAX_PROGRAM_CLOCKS = 4
"""Seconds of all `execute_code` calls of a workflow run, in wall clocks of the run."""
MAX_SENT = 32 << 20
"""Most bytes that one child may send."""
PAUSE_SECONDS = 0.05
"""After which a child that waits for an answer is stopped."""
MAX_MESSAGES = 512
"""Most messages of one LLM call."""
MAX_SAMPLES = 128
"""Most choices of one LLM call."""
MAX_ERROR = 1000
"""Characters of an error line that are kept."""
MAX_TRACEBACK = 4000
"""Characters of a traceback that are kept."""

PROCESS_DOES_NOT_STOP = (
    "sandbox 'process' sets limits of CPU, memory and file size only: model-written code can read every file you can "
    "read, reach the network, start processes, signal your processes and pass state between items"
)

BACK_ENDS = ("auto", "bwrap", "guard", "process")
