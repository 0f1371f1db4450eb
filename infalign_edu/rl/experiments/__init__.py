"""The paper's experiments at classroom scale: one runner, and a config for each question.

    runner.py   the command: grid, resume, tables
    cells.py    one policy, trained to a KL and judged
    pairs.py    paired differences with intervals over prompts and seeds
    *.toml      frontiers, samples, mismatch, algorithms, hacking
"""
