"""One file per framework, each with train, evaluate and predict as its documentation suggests.

A function gets the work, a clock and the variant to run; it calls ``clock.lap`` at the end of every
epoch (or call of predict), the warm-up included. Set-up before the first lap is never timed.
"""
