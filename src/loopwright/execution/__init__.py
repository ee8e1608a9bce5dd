"""How a step is executed: line by line, or as one program that was traced and compiled.

The loop calls `eager` and `stepping`; the other files are its parts, in the order of their use:
`obstacles`, `slots`, `rehearsal`, `tracing`, `torch_internals`, `cuda_graph`, `checking`, `auto`.
"""
