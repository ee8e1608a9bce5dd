"""How a step is executed: line by line, or as one program that was traced and compiled.

The loop calls `eager` and `stepping`; the other files are its parts, in the order of their use:
`obstacles`, `slots`, `snapshot`, `tracing`, `recurrent`, `torch_internals`, `cuda_graph`,
`checking`, `building`, `auto`.
"""
