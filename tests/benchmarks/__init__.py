"""What the line costs in time and memory, measured against the sandbox: figures, and no test that fails for being slow.

The sandbox always runs in a process of its own, and so does whatever is compared; `run_*` are their programs.
"""
