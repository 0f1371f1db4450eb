"""Run as a child that may ask the Hub if it wants to: what was not named must not be asked for. FOLDER [trl]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main(folder: Path, trl: bool) -> None:
    import torch

    torch.set_num_threads(1)
    if trl:
        import trl_world as world

        from infalign_edu.rl.tables import Tables
        from infalign_edu.rl.trl_reward import CTRLReward

        policy = world.policy(world.write(folder / "model"))
        tables = Tables.make(policy, world.PROMPTS, world.reward, samples=8)
        CTRLReward(tables, world.reward, transform="exp:10", target_kl=0.5).trainer(
            folder / "model", folder / "run", num_generations=4, per_device_train_batch_size=12, max_steps=1,
            use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        from huggingface_hub.utils import _telemetry

        _telemetry._TELEMETRY_QUEUE.join()  # it is sent from a thread
        return
    from tiny_policy import tiny

    from infalign_edu import cli
    from infalign_edu.lm.models import load

    load(tiny().save(folder / "model"), device="cpu").sample(["w1"], 1, seed=0)
    small = ["steps", "prompts-per-step", "heldout-prompts", "snapshots"]
    few = {"samples-per-prompt": 2, "reference-samples": 2, "evaluation-samples": 4, "base-samples": 4, "max-new-tokens": 4}
    options = [f"--{name}=1" for name in small] + [f"--{name}={value}" for name, value in few.items()]
    assert cli.main(["align", *options, "--transform=identity", f"--out={folder / 'run'}"]) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), "trl" in sys.argv)
    print("done")
