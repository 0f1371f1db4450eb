"""The paper's experiments at classroom scale: one runner, and a config for each question.

    runner.py   the command: resume, tables
    design.py   what is trained: cells, unfolded from a config
    lab.py      what the cells of one seed share: prompts, reward, calibration tables
    cells.py    one policy, trained to a KL
    judging.py  its win rates under many procedures, by three judges
    pairs.py    paired differences with intervals over prompts and seeds
    results.py  the tables read again: rows, and means over seeds
    verdicts.py the differences in words and in forests
    *.toml      frontiers, samples, mismatch, algorithms, hacking
"""
