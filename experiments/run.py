"""The paper's experiments at classroom scale: see infalign_edu/rl/experiments/runner.py.

    python experiments/run.py frontiers [--quick] [--jobs 2]
"""

from infalign_edu.rl.experiments.runner import main

if __name__ == "__main__":
    main()
