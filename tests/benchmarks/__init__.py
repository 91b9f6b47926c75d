"""Time and memory of the pipeline, measured against the sandbox. A slow result fails nothing.

The sandbox always runs in a process of its own, and so does whatever is compared; `run_*` are their programs.
"""
